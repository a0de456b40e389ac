// Included by each instruction set inside its own namespace, where it has defined spread_bits, which puts five bits
// into each byte, the lowest first.

std::size_t write_ends(const std::uint32_t* ends, std::size_t n, char* text) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  const char* const first = text;
  std::int64_t end = 0, before = 0, two_before = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int64_t count = ends[i] - end, x = count - two_before;
    // From the fourth on, counts are differences to the one two before.
    two_before = before;
    before = i > 0 ? count : 0;
    end = ends[i];
    // One bit more than the magnitude needs, for the sign.
    const int bits = 65 - __builtin_clzll(static_cast<std::uint64_t>(x ^ (x >> 63)) | 1);
    const auto groups = static_cast<unsigned>(bits + 4) / 5;
    const std::uint64_t more = 0x20 * kOnes & ((std::uint64_t{1} << (8 * (groups - 1))) - 1);
    const std::uint64_t word = (spread_bits(static_cast<std::uint64_t>(x)) | more) + 0x30 * kOnes;
    std::memcpy(text, &word, sizeof(word));
    text += groups;
  }
  return static_cast<std::size_t>(text - first);
}
