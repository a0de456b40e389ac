#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

#include "core/isa.h"
#include "ops/rle_sets.h"

VD_TARGET_BEGIN(VD_AVX512)

namespace visdeploy::avx512 {

std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += __builtin_popcountll(a[i] & b[i]);
  return sum;
}

namespace {

using Wide = double __attribute__((vector_size(64)));

// Not in AVX2, among whose processors are some that take these instructions apart.
std::uint64_t spread_bits(std::uint64_t bits) { return _pdep_u64(bits, 0x1f1f1f1f1f1f1f1f); }

}  // namespace

#include "ops/box_iou_row.h"
#include "ops/write_ends.h"

}  // namespace visdeploy::avx512

VD_TARGET_END

#endif
