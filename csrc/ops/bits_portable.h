// The primitives for which only AVX-512 has better ones. See Note [Code for one instruction set] in bits_cpu.h.
namespace {

// Exchanges the two off-diagonal squares of size kSide in every square of twice that size.
template <int kSide>
void swap_squares(std::uint64_t* rows, std::uint64_t low_halves) {
  for (int square = 0; square < 64; square += 2 * kSide) {
    for (int i = square; i < square + kSide; ++i) {
      const std::uint64_t change = (rows[i] >> kSide ^ rows[i + kSide]) & low_halves;
      rows[i] ^= change << kSide;
      rows[i + kSide] ^= change;
    }
  }
}

// Bit x of rows[y] to bit y of columns[x].
inline void transpose_bits(const std::uint64_t* rows, std::uint64_t* columns) {
  std::memcpy(columns, rows, 64 * sizeof(*rows));
  swap_squares<32>(columns, 0x00000000ffffffff);
  swap_squares<16>(columns, 0x0000ffff0000ffff);
  swap_squares<8>(columns, 0x00ff00ff00ff00ff);
  swap_squares<4>(columns, 0x0f0f0f0f0f0f0f0f);
  swap_squares<2>(columns, 0x3333333333333333);
  swap_squares<1>(columns, 0x5555555555555555);
}

// Appends the words of those of 64 columns whose bit is set, and returns the new end; may write up to 8 past it.
inline std::uint64_t* append_words(std::uint64_t columns, const std::uint64_t* words, std::uint64_t* out) {
  for (; columns; columns &= columns - 1) *out++ = words[__builtin_ctzll(columns)];
  return out;
}

// Appends the text of n counts, each up to the transition of its index, and returns the new end; may write up to 64
// past it. The three transitions before the first one are there too.
inline char* append_counts(const std::uint32_t* transitions, std::size_t n, char* out) {
  for (std::size_t i = 0; i < n; ++i) out = append_count(count_change(transitions + i), out);
  return out;
}

}  // namespace
