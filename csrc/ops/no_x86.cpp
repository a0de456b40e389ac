// What the linker asks for where the machine has none of it, so that dispatch needs no conditions: isa() is scalar
// there.
#if !defined(__x86_64__)

#include <stdexcept>

#include "ops/boxes.h"
#include "ops/detect_candidates.h"
#include "ops/letterbox.h"
#include "ops/multibox_detection.h"
#include "ops/nms.h"
#include "ops/rle.h"
#include "ops/rle_sets.h"
#include "ops/semantic_map.h"

namespace visdeploy {
namespace {

[[noreturn]] void absent() { throw std::logic_error("this machine has no x86 instruction set"); }

}  // namespace

namespace avx2 {
template <class T>
void suppress(const T*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&) {
  absent();
}
template void suppress(const float*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);
template void suppress(const double*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);

std::string to_string(const std::uint32_t*, std::size_t) { absent(); }
std::string encode(const Tensor&) { absent(); }
std::string encode_above(const Tensor&, float) { absent(); }
void decode(const Encoded&, Order, std::uint8_t*) { absent(); }
std::string encode_logits(const Tensor&, Size, float) { absent(); }
std::vector<std::string> semantic_map(const Tensor&, Size, std::uint8_t*, std::int64_t*) { absent(); }
std::int64_t common_bits(const std::uint64_t*, const std::uint64_t*, std::int64_t) { absent(); }
void box_iou_row(const Boxes&, const double*, bool, double*) { absent(); }
void decode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { absent(); }
void encode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { absent(); }
void scan(const float*, std::int64_t, std::int64_t, std::int64_t, std::int64_t, Candidates&) { absent(); }
void suppress_anchors(const float*, const std::uint32_t*, std::int64_t, float, std::vector<std::uint32_t>&) {
  absent();
}
void letterbox(const Tensor&, const Letterbox&, std::uint8_t*) { absent(); }
void letterbox(const Tensor&, const Letterbox&, float*) { absent(); }
}  // namespace avx2

namespace avx512 {
std::size_t read_counts(CountsText&, std::int64_t*, std::size_t) { absent(); }
std::string to_string(const std::uint32_t*, std::size_t) { absent(); }
std::string encode(const Tensor&) { absent(); }
std::string encode_above(const Tensor&, float) { absent(); }
void decode(const Encoded&, Order, std::uint8_t*) { absent(); }
std::string encode_logits(const Tensor&, Size, float) { absent(); }
std::vector<std::string> semantic_map(const Tensor&, Size, std::uint8_t*, std::int64_t*) { absent(); }
std::int64_t common_bits(const std::uint64_t*, const std::uint64_t*, std::int64_t) { absent(); }
void box_iou_row(const Boxes&, const double*, bool, double*) { absent(); }
void decode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { absent(); }
void encode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { absent(); }
void letterbox(const Tensor&, const Letterbox&, std::uint8_t*) { absent(); }
void letterbox(const Tensor&, const Letterbox&, float*) { absent(); }
}  // namespace avx512

}  // namespace visdeploy
#endif
