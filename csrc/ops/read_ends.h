// Included by each instruction set inside its own namespace, where it has defined low_bits, which puts the lowest five
// bits of each byte side by side.

std::int64_t read_ends(const char* text, std::size_t length, std::int64_t pixels, std::uint32_t* ends) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  constexpr std::size_t kWord = 8, kBlock = 64;
  const std::uint32_t* const first = ends;
  std::size_t begin = 0;
  std::int64_t position = 0, before = 0, two_before = 0;
  for (std::size_t i = 0; i < length; i += kBlock) {
    std::uint64_t last = 0, foreign = 0;  // one bit for each character that ends a number
    for (std::size_t j = 0; j < kBlock; j += kWord) {
      std::uint64_t word;
      std::memcpy(&word, text + i + j, kWord);
      // '0' to 'o' move to 0x80 to 0xbf, and nothing else does that has no top bit of its own.
      const std::uint64_t moved = (word & 0x7f * kOnes) + 0x50 * kOnes;
      foreign |= (word & 0x80 * kOnes) | ((moved & 0xc0 * kOnes) ^ 0x80 * kOnes);
      last |= (((~moved & 0x20 * kOnes) >> 5) * 0x0102040810204080) >> 56 << j;
    }
    if (length - i < kBlock) last &= (std::uint64_t{1} << (length - i)) - 1;
    std::int64_t signs = 0;
    std::size_t longest = 0;
    for (; last; last &= last - 1) {
      const std::size_t end = i + static_cast<std::size_t>(__builtin_ctzll(last)) + 1;
      std::uint64_t word;
      std::memcpy(&word, text + begin, kWord);
      const std::uint64_t bits = low_bits(word ^ 0x10 * kOnes);
      // The top bit of the last character is the sign.
      const std::size_t unused = (64 - 5 * (end - begin)) % 64;
      const std::int64_t count = (static_cast<std::int64_t>(bits << unused) >> unused) + two_before;
      longest |= end - begin;
      signs |= count;
      // From the fourth on, counts are differences to the one two before.
      two_before = before;
      before = begin > 0 ? count : 0;
      position += count;
      begin = end;
      *ends++ = static_cast<std::uint32_t>(position);
    }
    // Numbers of eight characters and more are none of a mask's; shorter ones cannot wrap within a block.
    if (foreign || longest >= kWord || signs < 0 || position > pixels) return -1;
  }
  return begin == length ? ends - first : -1;
}
