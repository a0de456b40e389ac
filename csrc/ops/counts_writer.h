// See Note [Code for one instruction set] in bits_cpu.h.
namespace {

// Turns transitions, which come in run order, into COCO's compressed counts, a block at a time. Callers hold the end of
// what is in the block: in a register, which a member written through pointers would not be.
class CountsWriter {
 public:
  static constexpr std::size_t kBlock = 1024;

  std::uint32_t* begin() { return transitions_ + kKnown; }

  // Adds a transition at first + i for every bit i that is set, and returns the new end.
  std::uint32_t* add(std::uint64_t bits, std::int64_t first, std::uint32_t* end) {
    end = append_positions(bits, static_cast<std::uint32_t>(first), end);
    return end > transitions_ + kKnown + kBlock ? flush(end) : end;
  }

  // The text, once every transition of the mask of so many pixels has been added.
  std::string finish(std::int64_t pixels, std::uint32_t* end) {
    *end++ = static_cast<std::uint32_t>(pixels);
    flush(end);
    return std::move(text_);
  }

  // Writes a block by itself: n counts, each up to the transition of its index, behind the transitions before them.
  void write(const std::uint32_t* transitions, std::size_t n) {
    char chunk[8 * (kBlock + kSlack) + kSlack];
    char* out = chunk;
    const std::uint32_t* const end = transitions + n;
    // The first three counts are written as they are.
    for (; written_ < 3 && transitions < end; ++written_, ++transitions) {
      out = append_count(transitions[0] - (written_ > 0 ? transitions[-1] : 0), out);
    }
    out = append_counts(transitions, static_cast<std::size_t>(end - transitions), out);
    text_.append(chunk, static_cast<std::size_t>(out - chunk));
  }

  std::string take() { return std::move(text_); }

 private:
  static constexpr std::size_t kKnown = 3, kSlack = 64;

  [[gnu::noinline]] std::uint32_t* flush(std::uint32_t* end) {
    write(begin(), static_cast<std::size_t>(end - begin()));
    std::memmove(transitions_, end - kKnown, kKnown * sizeof(*end));
    return begin();
  }

  std::uint32_t transitions_[kKnown + kBlock + 2 * kSlack];
  int written_ = 0;
  std::string text_;
};

}  // namespace

std::string to_string(const std::uint32_t* ends, std::size_t n) {
  CountsWriter writer;
  for (std::size_t i = 0; i < n; i += CountsWriter::kBlock) {
    writer.write(ends + i, std::min(CountsWriter::kBlock, n - i));
  }
  return writer.take();
}
