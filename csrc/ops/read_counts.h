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
    if (length < kBlock) ends &= (std::uint64_t{1} << length) - 1;
    const std::int64_t* const first = out + n;
    std::int64_t signs = 0;
    std::size_t longest = 0, begin = 0;
    for (; ends; ends &= ends - 1) {
      const std::size_t end = static_cast<std::size_t>(__builtin_ctzll(ends)) + 1;
      std::uint64_t word;
      std::memcpy(&word, from + begin, kWord);
      // The top bit of the last character is the sign.
      const std::size_t unused = (64 - 5 * (end - begin)) % 64;
      const std::int64_t change = static_cast<std::int64_t>(low_bits(word ^ 0x1010101010101010) << unused) >> unused;
      const std::int64_t count = change + before;
      longest |= end - begin;
      signs |= count;
      left -= count;
      before = last;
      last = count;
      begin = end;
      out[n++] = count;
    }
    // Numbers of eight characters and more are none of a mask's; shorter ones cannot wrap within a block.
    if (foreign || begin == 0 || longest >= kWord || signs < 0 || left < 0) {
      n = static_cast<std::size_t>(first - out);
      break;
    }
    text += begin;
    counts = {text, counts.end, left, before, last};
  }
  return n;
}
