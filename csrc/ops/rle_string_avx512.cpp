#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

#include "core/isa.h"
#include "ops/rle.h"

VD_TARGET_BEGIN(VD_AVX512)
namespace visdeploy::avx512 {

// Sixteen numbers at a time: the characters of each go to a lane of their own.
std::pair<std::size_t, std::size_t> read_changes(std::string_view text, std::size_t i, std::int64_t* out,
                                                 std::size_t room) {
  std::int64_t* const begin_of_out = out;
  const __m512i iota = _mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
                                        0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
  for (; room >= 16 && i + 64 <= text.size(); room -= 16) {
    const __m512i groups = _mm512_sub_epi8(_mm512_loadu_si512(text.data() + i), _mm512_set1_epi8(48));
    const std::uint64_t last = ~_mm512_test_epi8_mask(groups, _mm512_set1_epi8(0x20));
    const bool strange = _mm512_test_epi8_mask(groups, _mm512_set1_epi8(static_cast<char>(0xc0)));
    const __m128i ends = _mm512_castsi512_si128(_mm512_maskz_compress_epi8(last, iota));
    const __m128i begins = _mm512_castsi512_si128(_mm512_maskz_compress_epi8(last << 1 | 1, iota));
    const __m128i more = _mm_sub_epi8(ends, begins);  // characters after the first
    if (strange || _mm_popcnt_u64(last) < 16 || _mm_cmpgt_epu8_mask(more, _mm_set1_epi8(3))) break;

    const __m512i begin = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(begins), _mm512_set1_epi32(0x01010101));
    const __m512i index = _mm512_add_epi32(begin, _mm512_set1_epi32(0x03020100));
    const __m512i after_first = _mm512_cvtepu8_epi32(more);
    const __m512i foreign = _mm512_sub_epi32(_mm512_set1_epi32(24), _mm512_slli_epi32(after_first, 3));
    __m512i x = _mm512_permutexvar_epi8(index, groups);
    x = _mm512_and_si512(x, _mm512_srlv_epi32(_mm512_set1_epi32(0x1f1f1f1f), foreign));
    // Five bits of each: to pairs, to all four, and the top one is the sign.
    x = _mm512_maddubs_epi16(x, _mm512_set1_epi16(32 << 8 | 1));
    x = _mm512_madd_epi16(x, _mm512_set1_epi32(1024 << 16 | 1));
    const __m512i bits = _mm512_add_epi32(_mm512_set1_epi32(5), _mm512_mullo_epi32(after_first, _mm512_set1_epi32(5)));
    const __m512i unused = _mm512_sub_epi32(_mm512_set1_epi32(32), bits);
    x = _mm512_srav_epi32(_mm512_sllv_epi32(x, unused), unused);
    _mm512_storeu_si512(out, _mm512_cvtepi32_epi64(_mm512_castsi512_si256(x)));
    _mm512_storeu_si512(out + 8, _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(x, 1)));
    out += 16;
    i += _tzcnt_u64(_pdep_u64(1 << 15, last)) + 1;
  }
  return {static_cast<std::size_t>(out - begin_of_out), i};
}

}  // namespace visdeploy::avx512
VD_TARGET_END
#endif
