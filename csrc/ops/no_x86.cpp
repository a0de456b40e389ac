// Stands in for the variants of other machines, so that dispatch needs no conditions of its own: isa() never leads
// here.
#if !defined(__x86_64__)

#include <stdexcept>

#include "ops/boxes.h"
#include "ops/detect_candidates.h"
#include "ops/multibox_detection.h"
#include "ops/nms.h"
#include "ops/rle_sets.h"

namespace visdeploy {

[[noreturn]] static void never_called() { throw std::logic_error("this machine has no AVX"); }

namespace avx2 {
template <class T>
void suppress(const T*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&) {
  never_called();
}
template void suppress(const float*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);
template void suppress(const double*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);

std::int64_t common_bits(const std::uint64_t*, const std::uint64_t*, std::int64_t) { never_called(); }
void decode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { never_called(); }
void encode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { never_called(); }
void scan(const float*, std::int64_t, std::int64_t, std::int64_t, Candidates&) { never_called(); }
void suppress_anchors(const float*, const std::uint32_t*, std::int64_t, float, std::vector<std::uint32_t>&) {
  never_called();
}
}  // namespace avx2

namespace avx512 {
std::int64_t common_bits(const std::uint64_t*, const std::uint64_t*, std::int64_t) { never_called(); }
void box_iou_row(const Boxes&, const double*, bool, double*) { never_called(); }
std::int64_t read_ends(const char*, std::size_t, std::int64_t, std::uint32_t*) { never_called(); }
std::size_t write_ends(const std::uint32_t*, std::size_t, char*) { never_called(); }
void decode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { never_called(); }
void encode(const float*, const float*, std::int64_t, const BoxCoder&, float*) { never_called(); }
}  // namespace avx512

}  // namespace visdeploy
#endif
