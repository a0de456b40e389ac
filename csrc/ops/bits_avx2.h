// See Note [Code for one instruction set] in bits_cpu.h, which says what each of these does.
namespace {

inline std::uint32_t equal_bytes(const std::uint8_t* a, const std::uint8_t* b) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
  const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(x, y)));
}

inline std::uint64_t differing_bytes(const std::uint8_t* a, const std::uint8_t* b) {
  return ~(std::uint64_t{equal_bytes(a + 32, b + 32)} << 32 | equal_bytes(a, b));
}

inline std::uint64_t floats_above(const std::uint8_t* a, float threshold) {
  const __m256 limit = _mm256_set1_ps(threshold);
  std::uint64_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    const __m256 values = _mm256_loadu_ps(reinterpret_cast<const float*>(a + 32 * i));
    const int above = _mm256_movemask_ps(_mm256_cmp_ps(values, limit, _CMP_GT_OQ));
    bits |= static_cast<std::uint64_t>(above) << (8 * i);
  }
  return bits;
}

inline void spread_bits(std::uint64_t bits, std::uint8_t* out) {
  const __m256i bytes_of_bits = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit_of_byte = _mm256_set1_epi64x(static_cast<std::int64_t>(0x8040201008040201));
  for (int i = 0; i < 2; ++i) {
    const __m256i copies = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits >> (32 * i))), bytes_of_bits);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(copies, bit_of_byte), bit_of_byte);
    const __m256i ones = _mm256_and_si256(set, _mm256_set1_epi8(1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * i), ones);
  }
}

inline std::uint32_t* append_positions(std::uint64_t bits, std::uint32_t first, std::uint32_t* out) {
  std::uint32_t* const end = out + _mm_popcnt_u64(bits);
  // Four at a time, because the end of a loop over each one is what the processor guesses wrong.
  do {
    for (int i = 0; i < 4; ++i) {
      *out++ = first + static_cast<std::uint32_t>(_tzcnt_u64(bits));
      bits = _blsr_u64(bits);
    }
  } while (bits);
  return end;
}

}  // namespace
