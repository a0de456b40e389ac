// See Note [Code for one instruction set] in bits_cpu.h.
namespace {

// Turns transitions, which come in run order, into COCO's compressed counts, a block at a time.
class CountsWriter {
 public:
  CountsWriter() { std::fill_n(transitions_, kKnown, 0); }

  // A transition at first + i for every bit i that is set.
  void add(std::uint64_t bits, std::int64_t first) {
    end_ = append_positions(bits, static_cast<std::uint32_t>(first), end_);
    if (end_ > transitions_ + kKnown + kBlock) flush();
  }

  // The text, once every transition of the mask of so many pixels has been added.
  std::string finish(std::int64_t pixels) {
    *end_++ = static_cast<std::uint32_t>(pixels);
    flush();
    return std::move(text_);
  }

 private:
  static constexpr std::size_t kBlock = 1024, kKnown = 3, kSlack = 64;

  void flush() {
    char chunk[8 * (kBlock + kSlack) + kSlack];
    char* out = chunk;
    const std::uint32_t* begin = transitions_ + kKnown;
    // The first three counts are written as they are.
    for (; written_ < 3 && begin < end_; ++written_, ++begin) out = append_count(begin[0] - begin[-1], out);
    out = append_counts(begin, static_cast<std::size_t>(end_ - begin), out);
    text_.append(chunk, static_cast<std::size_t>(out - chunk));
    std::memmove(transitions_, end_ - kKnown, kKnown * sizeof(*end_));
    end_ = transitions_ + kKnown;
  }

  std::uint32_t transitions_[kKnown + kBlock + 2 * kSlack];
  std::uint32_t* end_ = transitions_ + kKnown;
  int written_ = 0;
  std::string text_;
};

}  // namespace
