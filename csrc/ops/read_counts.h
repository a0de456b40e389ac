// Included by each instruction set inside its own namespace, where it has defined ends_of_numbers and low_bits.

std::size_t read_counts(CountsText& counts, std::int64_t* out, std::size_t room) {
  constexpr std::size_t kWord = 8, kBlock = Counts::kAtOnce;
  const char* text = counts.text;
  std::int64_t before = counts.before, last = counts.last, left = counts.left;
  std::size_t n = 0;
  while (room - n >= kBlock && text != counts.end) {
    const auto length = static_cast<std::size_t>(counts.end - text);
    char padded[kBlock + kWord];
    const char* from = text;
    if (length < sizeof(padded)) {
      std::fill_n(std::copy(text, counts.end, padded), sizeof(padded) - length, '0');
      from = padded;
    }
    bool foreign = false;
    std::uint64_t ends = ends_of_numbers(from, foreign);
    // Numbers of eight characters and more are none of a mask's; shorter ones cannot wrap within a block.
    std::uint64_t long_numbers = ~ends & ~ends >> 1;
    long_numbers &= long_numbers >> 2;
    long_numbers &= long_numbers >> 3;
    if (length < kBlock) ends &= (std::uint64_t{1} << length) - 1;
    if (foreign || long_numbers || !ends) break;
    const std::size_t first = n;
    std::int64_t signs = 0;
    std::size_t begin = 0;
    const auto add = [&](std::int64_t change) {
      const std::int64_t count = change + before;
      signs |= count;
      left -= count;
      before = last;
      last = count;
      out[n++] = count;
    };
    // Noise is mostly this, and then there is nothing to search and to put together.
    if (ends == ~std::uint64_t{0}) {
      for (; begin < kBlock; ++begin) add(((from[begin] - '0') ^ 0x10) - 0x10);
      ends = 0;
    }
    for (; ends; ends &= ends - 1) {
      const auto end = static_cast<std::size_t>(__builtin_ctzll(ends)) + 1;
      std::uint64_t word;
      std::memcpy(&word, from + begin, kWord);
      // The top bit of the last character is the sign.
      const std::size_t unused = (5 * begin - 5 * end) % 64;
      add(static_cast<std::int64_t>(low_bits(word ^ 0x1010101010101010) << unused) >> unused);
      begin = end;
    }
    if (signs < 0 || left < 0) return first;
    text += begin;
    counts = {text, counts.end, left, before, last};
  }
  return n;
}
