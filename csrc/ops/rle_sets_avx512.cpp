#if defined(__x86_64__)

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

}  // namespace

#include "ops/box_iou_row.h"

}  // namespace visdeploy::avx512

VD_TARGET_END

#endif
