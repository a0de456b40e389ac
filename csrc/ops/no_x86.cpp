// What a machine without AVX links in place of the variants that it never calls.
#if !defined(__x86_64__)

#include <stdexcept>

#include "ops/rle_sets.h"

namespace visdeploy {

namespace avx2 {
std::int64_t common_bits(const std::uint64_t*, const std::uint64_t*, std::int64_t) {
  throw std::logic_error("no AVX2");
}
}  // namespace avx2

namespace avx512 {
std::int64_t common_bits(const std::uint64_t*, const std::uint64_t*, std::int64_t) {
  throw std::logic_error("no AVX-512");
}
void box_iou_row(const Boxes&, const double*, bool, double*) { throw std::logic_error("no AVX-512"); }
std::int64_t read_ends(const char*, std::size_t, std::int64_t, std::uint32_t*) { throw std::logic_error("no AVX-512"); }
std::size_t write_ends(const std::uint32_t*, std::size_t, char*) { throw std::logic_error("no AVX-512"); }
}  // namespace avx512

}  // namespace visdeploy

#endif
