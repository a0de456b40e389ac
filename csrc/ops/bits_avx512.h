// See Note [Code for one instruction set] in bits_cpu.h, which says what each of these does.
namespace {

inline std::uint64_t differing_bytes(const std::uint8_t* a, const std::uint8_t* b) {
  return _mm512_cmpneq_epu8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}

inline std::uint64_t floats_above(const std::uint8_t* a, float threshold) {
  const __m512 limit = _mm512_set1_ps(threshold);
  std::uint64_t bits = 0;
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t above = _mm512_cmp_ps_mask(_mm512_loadu_ps(a + 64 * i), limit, _CMP_GT_OQ);
    bits |= above << (16 * i);
  }
  return bits;
}

inline void spread_bits(std::uint64_t bits, std::uint8_t* out) {
  _mm512_storeu_si512(out, _mm512_maskz_set1_epi8(bits, 1));
}

// Squares of 8 x 8 bits are mirrored within registers, and then go where bytes of a transposed 8 x 8 matrix go.
inline void transpose_bits(const std::uint64_t* rows, std::uint64_t* columns) {
  const __m512i mirrored = _mm512_set1_epi64(static_cast<std::int64_t>(0x8040201008040201));
  // Byte j of each of eight rows to word j, the last row first, which is the order that mirroring undoes.
  const __m512i gather =
      _mm512_set_epi64(0x070f171f272f373f, 0x060e161e262e363e, 0x050d151d252d353d, 0x040c141c242c343c,
                       0x030b131b232b333b, 0x020a121a222a323a, 0x0109111921293139, 0x0008101820283038);
  __m512i v[8], t[8];
  for (int i = 0; i < 8; ++i) {
    const __m512i squares = _mm512_permutexvar_epi8(gather, _mm512_loadu_si512(rows + 8 * i));
    v[i] = _mm512_gf2p8affine_epi64_epi8(mirrored, squares, 0);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_unpacklo_epi8(v[2 * i], v[2 * i + 1]);
    t[i + 4] = _mm512_unpackhi_epi8(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_unpacklo_epi16(t[2 * i], t[2 * i + 1]);
    v[i + 4] = _mm512_unpackhi_epi16(t[2 * i], t[2 * i + 1]);
  }
  // v[0], v[1]: columns 0 to 3 of the even squares, rows 0 to 31 and 32 to 63; v[4], v[5]: columns 4 to 7; v[2], v[3]
  // and v[6], v[7]: the same of the odd squares.
  for (int i = 0; i < 4; ++i) {
    const int first = 8 * (i & 1) + 4 * (i >> 1);
    const __m512i low = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    const __m512i high = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    const auto store = [&](int pair, __m128i a, __m128i b) {
      std::uint64_t* to = columns + 16 * pair + first;
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), a);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2), b);
    };
    store(0, _mm512_extracti64x2_epi64(low, 0), _mm512_extracti64x2_epi64(high, 0));
    store(1, _mm512_extracti64x2_epi64(low, 1), _mm512_extracti64x2_epi64(high, 1));
    store(2, _mm512_extracti64x2_epi64(low, 2), _mm512_extracti64x2_epi64(high, 2));
    store(3, _mm512_extracti64x2_epi64(low, 3), _mm512_extracti64x2_epi64(high, 3));
  }
}

inline std::uint32_t* append_positions(std::uint64_t bits, std::uint32_t first, std::uint32_t* out) {
  const __m512i indices =
      _mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
                       0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
  const __m512i base = _mm512_set1_epi32(static_cast<int>(first));
  const auto n = _mm_popcnt_u64(bits);
  if (n <= 2) {
    out[0] = first + static_cast<std::uint32_t>(_tzcnt_u64(bits));
    out[1] = first + static_cast<std::uint32_t>(_tzcnt_u64(_blsr_u64(bits)));
    return out + n;
  }
  const __m512i set = _mm512_maskz_compress_epi8(bits, indices);
  const auto store = [&](int part, __m128i bytes) {
    _mm512_storeu_si512(out + 16 * part, _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), base));
  };
  store(0, _mm512_castsi512_si128(set));
  if (n > 16) {
    store(1, _mm512_extracti32x4_epi32(set, 1));
    store(2, _mm512_extracti32x4_epi32(set, 2));
    store(3, _mm512_extracti32x4_epi32(set, 3));
  }
  return out + n;
}

inline std::uint64_t* append_words(std::uint64_t columns, const std::uint64_t* words, std::uint64_t* out) {
  for (int i = 0; i < 64; i += 8) {
    const auto set = static_cast<__mmask8>(columns >> i);
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi64(set, _mm512_loadu_si512(words + i)));
    out += _mm_popcnt_u32(set);
  }
  return out;
}

// Sixteen counts at a time, four bytes for each, from which those in use get squeezed together.
inline char* append_counts(const std::uint32_t* transitions, std::size_t n, char* out) {
  const __m512i group_shifts = _mm512_set1_epi64(0x2f2a25200f0a0500);
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const auto load = [&](int back) { return _mm512_loadu_si512(transitions + i - back); };
    const __m512i count = _mm512_sub_epi32(load(0), load(1)), before = _mm512_sub_epi32(load(2), load(3));
    // Four groups hold what lies within 19 bits and a sign.
    if (_mm512_test_epi32_mask(_mm512_or_si512(count, before), _mm512_set1_epi32(-(1 << 19)))) {
      for (std::size_t k = i; k < i + 16; ++k) out = append_count(count_change(transitions + k), out);
      continue;
    }
    const __m512i x = _mm512_sub_epi32(count, before);
    const __m512i magnitude = _mm512_xor_si512(x, _mm512_srai_epi32(x, 31));
    __m512i text = _mm512_and_si512(_mm512_multishift_epi64_epi8(group_shifts, x), _mm512_set1_epi8(0x1f));
    const auto continue_group = [&](int group, int limit) {
      const __mmask16 more = _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(limit));
      text = _mm512_mask_or_epi32(text, more, text, _mm512_set1_epi32(0x20 << (8 * group)));
    };
    continue_group(0, 1 << 4);
    continue_group(1, 1 << 9);
    continue_group(2, 1 << 14);
    const __mmask64 continued = _mm512_test_epi8_mask(text, _mm512_set1_epi8(0x20));
    const __mmask64 used = continued << 1 | 0x1111111111111111;
    text = _mm512_add_epi8(text, _mm512_set1_epi8(0x30));
    _mm512_storeu_si512(out, _mm512_maskz_compress_epi8(used, text));
    out += _mm_popcnt_u64(used);
  }
  for (; i < n; ++i) out = append_count(count_change(transitions + i), out);
  return out;
}

}  // namespace
