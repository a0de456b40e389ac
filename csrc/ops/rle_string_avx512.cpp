#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/isa.h"
#include "ops/rle.h"

VD_TARGET_BEGIN(VD_AVX512)
namespace visdeploy::avx512 {
namespace {

std::uint64_t ends_of_numbers(const char* text, bool& foreign) {
  const __m512i groups = _mm512_sub_epi8(_mm512_loadu_si512(text), _mm512_set1_epi8('0'));
  foreign = _mm512_test_epi8_mask(groups, _mm512_set1_epi8(static_cast<char>(0xc0))) != 0;
  return _mm512_testn_epi8_mask(groups, _mm512_set1_epi8(0x20));
}

// Not in AVX2, among whose processors are some that take this instruction apart.
std::uint64_t low_bits(std::uint64_t bytes) { return _pext_u64(bytes, 0x1f1f1f1f1f1f1f1f); }

}  // namespace

#include "ops/read_counts.h"

}  // namespace visdeploy::avx512
VD_TARGET_END
#endif
