// Note [Code for one instruction set]
// Dense masks are worked on in words of 64 bits, one for each of 64 pixels. bits_cpu.h, bits_avx2.h and bits_avx512.h
// define the same few primitives on such words. dense_masks_avx2.cpp and its like include one of them inside the
// namespace and the target region of their instruction set, and then the headers written over the primitives, which so
// get compiled once for each. Such headers include nothing and have no guards; core/isa.h says why.
namespace {

// Bit i of the result says whether byte i, the lowest being 0, has any bit set.
inline std::uint64_t nonzero_bytes(std::uint64_t word) {
  constexpr std::uint64_t low_bits = 0x7f7f7f7f7f7f7f7f;
  const std::uint64_t top_bits = (((word & low_bits) + low_bits) | word) & ~low_bits;
  return (top_bits >> 7) * 0x0102040810204080 >> 56;  // shifts the eight bits next to each other
}

// Where 64 bytes differ from 64 others.
inline std::uint64_t differing_bytes(const std::uint8_t* a, const std::uint8_t* b) {
  std::uint64_t x[8], y[8], any = 0, bits = 0;
  std::memcpy(x, a, 64);
  std::memcpy(y, b, 64);
  for (int i = 0; i < 8; ++i) any |= x[i] ^= y[i];
  if (!any) return 0;
  for (int i = 0; i < 8; ++i) bits |= nonzero_bytes(x[i]) << (8 * i);
  return bits;
}

// Which of 64 floats, aligned or not, exceed the threshold; NaN does not.
inline std::uint64_t floats_above(const std::uint8_t* a, float threshold) {
  float values[64];
  std::memcpy(values, a, sizeof(values));
  std::uint64_t bits = 0;
  for (int i = 0; i < 64; ++i) bits |= static_cast<std::uint64_t>(values[i] > threshold) << i;
  return bits;
}

// Writes 64 bytes, each 0 or 1 as its bit is.
inline void spread_bits(std::uint64_t bits, std::uint8_t* out) {
  for (int i = 0; i < 8; ++i) {
    const std::uint64_t copies = (bits >> (8 * i) & 0xff) * 0x0101010101010101 & 0x8040201008040201;
    const std::uint64_t bytes = (copies + 0x7f7f7f7f7f7f7f7f) >> 7 & 0x0101010101010101;
    std::memcpy(out + 8 * i, &bytes, 8);
  }
}

// Appends first + i for every bit i that is set, and returns the new end; may write up to 64 past it.
inline std::uint32_t* append_positions(std::uint64_t bits, std::uint32_t first, std::uint32_t* out) {
  for (; bits; bits &= bits - 1) *out++ = first + static_cast<std::uint32_t>(__builtin_ctzll(bits));
  return out;
}

}  // namespace
