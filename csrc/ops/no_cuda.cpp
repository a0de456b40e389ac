// Stands in for the kernels in a build without CUDA. device_of() refuses arrays on a device before any of these is
// reached.
#include <stdexcept>

#include "ops/null.h"

namespace visdeploy::cuda {
namespace {

[[noreturn]] void absent() { throw std::logic_error("this build has no CUDA kernels"); }

}  // namespace

void null(const Tensor&, Stream, float*) { absent(); }

}  // namespace visdeploy::cuda
