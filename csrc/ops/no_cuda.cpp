// Stands in for the kernels in a build without CUDA, which refuses arrays on a device before it gets here.
#include <stdexcept>

#include "ops/null.h"

namespace visdeploy::cuda {
namespace {

[[noreturn]] void absent() { throw std::logic_error("this build has no CUDA kernels"); }

}  // namespace

void null(const Tensor&, Stream, float*) { absent(); }

}  // namespace visdeploy::cuda
