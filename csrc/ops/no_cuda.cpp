// Stands in for the kernels in a build without CUDA, which refuses arrays on a device before it gets here.
#include <stdexcept>

#include "ops/null.h"
#include "ops/rle.h"
#include "ops/semantic_map.h"

namespace visdeploy::cuda {
namespace {

[[noreturn]] void absent() { throw std::logic_error("this build has no CUDA kernels"); }

}  // namespace

void null(const Tensor&, Stream, float*) { absent(); }

void encode(const Tensor&, Stream, const TextsOut&) { absent(); }
std::vector<std::string> read_texts(const char*, std::int64_t, std::int64_t, std::int64_t, Stream,
                                    const std::function<void(const TextsOut&)>&) {
  absent();
}

void encode_labels(const std::uint8_t*, Size, std::int64_t, Stream, const TextsOut&) { absent(); }
void encode_logits(const Tensor&, Size, float, Stream, const TextsOut&) { absent(); }
void semantic_map(const Tensor&, Size, Stream, std::uint8_t*, std::int64_t*) { absent(); }

}  // namespace visdeploy::cuda
