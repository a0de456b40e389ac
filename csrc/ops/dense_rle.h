// See Note [Code for one instruction set] in bits_cpu.h.
namespace {

// The lines of a 2-D view as contiguous samples; those that are not get copied into one of two buffers, so that the
// line asked for and the one asked for before it are valid together.
template <class Samples>
class Lines {
 public:
  Lines(const Tensor& mask, std::size_t along)
      : data_(mask.at<std::uint8_t>(0)), step_(mask.strides[along]), next_(mask.strides[1 - along]) {}

  // n samples of a line, from `first` on.
  const std::uint8_t* operator()(std::int64_t line, std::int64_t first, std::int64_t n) {
    const std::uint8_t* source = data_ + line * next_ + first * step_;
    if (step_ == Samples::kSize) return source;
    std::vector<std::uint8_t>& buffer = buffers_[turn_ ^= 1];
    buffer.resize(static_cast<std::size_t>(n * Samples::kSize));
    std::uint8_t* out = buffer.data();
    for (std::int64_t i = 0; i < n; ++i) std::memcpy(out + i * Samples::kSize, source + i * step_, Samples::kSize);
    return out;
  }

 private:
  const std::uint8_t* data_;
  std::int64_t step_, next_;
  std::vector<std::uint8_t> buffers_[2];
  std::size_t turn_ = 0;
};

// Columns are denser in memory than rows.
template <class Samples>
std::uint32_t* encode_columns(const Samples& samples, const Tensor& mask, CountsWriter& writer, std::uint32_t* end) {
  const std::int64_t height = mask.shape[0], width = mask.shape[1];
  Lines<Samples> columns(mask, 0);
  std::uint8_t before[Samples::kSize];
  std::memcpy(before, Samples::kBackground, sizeof(before));
  for (std::int64_t x = 0; x < width; ++x) {
    const std::uint8_t* column = columns(x, 0, height);
    if (samples.first_differs(column, before)) end = writer.add(1, x * height, end);
    const std::int64_t first = x * height + 1;
    for_each_word(samples, column + Samples::kSize, column, height - 1, kAhead,
                  [&](std::uint64_t word, std::int64_t y) {
                    if (word) end = writer.add(word, first + y, end);
                  });
    std::memcpy(before, column + (height - 1) * Samples::kSize, sizeof(before));
  }
  return end;
}

// Adds to `columns` where each row differs from the one above, of rows so narrow that a word holds several: they are
// compared as one line, from which each takes its bits.
template <class Samples>
void add_narrow_rows(const Samples& samples, const std::uint8_t* mask, std::int64_t height, std::int64_t width,
                     BitColumns& columns) {
  const std::int64_t pixels = (height - 1) * width;
  const Words differ = make_words(pixels / 64 + 2);
  for_each_word(samples, mask + width * Samples::kSize, mask, pixels, kAhead,
                [&](std::uint64_t word, std::int64_t i) { differ.get()[i / 64] = word; });
  differ.get()[(pixels + 63) / 64] = 0;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(differ.get());
  for (std::int64_t i = 0; i < pixels; i += width) {
    std::uint64_t word;
    std::memcpy(&word, bytes + i / 8, sizeof(word));
    columns.add_line(word >> (i % 8) & ((std::uint64_t{1} << width) - 1));
  }
}

// Rows are denser. See Note [Transitions across the run axis].
template <class Samples>
std::uint32_t* encode_rows(const Samples& samples, const Tensor& mask, CountsWriter& writer, std::uint32_t* end) {
  constexpr std::int64_t kStrip = 16384;  // columns, whose bits shall stay in cache; rows read in parts cost more
  constexpr std::int64_t kNarrow = 56;    // bits that a word holds from any bit of its first byte on
  const std::int64_t height = mask.shape[0], width = mask.shape[1];
  Lines<Samples> rows(mask, 1);
  if (samples.first_differs(rows(0, 0, 1), Samples::kBackground)) end = writer.add(1, 0, end);
  for (std::int64_t left = 0; left < width; left += kStrip) {
    const std::int64_t n = std::min(kStrip, width - left);
    BitColumns columns(height, n);
    const std::int64_t ahead = mask.strides[0] * (kAhead / (n * Samples::kSize) + 1);
    if (width <= kNarrow && mask.strides[1] == Samples::kSize && mask.strides[0] == width * Samples::kSize) {
      add_narrow_rows(samples, mask.at<std::uint8_t>(0), height, width, columns);
    } else {
      const std::uint8_t* above = rows(0, left, n);
      for (std::int64_t y = 1; y < height; ++y) {
        const std::uint8_t* row = rows(y, left, n);
        columns.add_line(samples, row, above, n, ahead);
        above = row;
      }
    }
    const std::int64_t below = std::min(n, width - left - 1);
    const std::uint8_t* last = rows(height - 1, left, n);
    columns.add_line(samples, rows(0, left + 1, below), last, below, 0);
    columns.for_each([&](std::uint64_t word, std::int64_t x, std::int64_t y) {
      end = writer.add(word, (left + x) * height + y + 1, end);
    });
  }
  return end;
}

template <class Samples>
std::string encode_samples(const Samples& samples, Tensor mask) {
  std::int64_t &height = mask.shape[0], &width = mask.shape[1];
  const std::int64_t pixels = height * width;
  if (pixels == 0) return "0";
  const bool one_line =
      height == 1 || width == 1 || (mask.strides[0] == Samples::kSize && mask.strides[1] == height * Samples::kSize);
  if (one_line) {
    if (height == 1) mask.strides[0] = mask.strides[1];
    height = pixels;
    width = 1;
  }
  CountsWriter writer;
  std::uint32_t* end = writer.begin();
  if (one_line || std::abs(mask.strides[0]) < std::abs(mask.strides[1])) {
    end = encode_columns(samples, mask, writer, end);
  } else {
    end = encode_rows(samples, mask, writer, end);
  }
  return writer.finish(pixels, end);
}

// The ends of the runs in ascending order: a pixel is foreground where an odd number of them is not above it. What
// follows the last run is background.
class RunEnds {
 public:
  explicit RunEnds(Counts& counts) : counts_(counts) {
    refill();
    next();
  }

  std::int64_t position() const { return position_; }

  void next() {
    if (count_ == end_) {
      position_ = std::numeric_limits<std::int64_t>::max();
      return;
    }
    position_ += *count_++;
    foreground_ = !foreground_;
    if (count_ != end_) return;
    refill();
    if (count_ == end_ && foreground_) position_ = std::numeric_limits<std::int64_t>::max();
  }

 private:
  void refill() {
    const auto block = counts_.next();
    count_ = block.begin;
    end_ = block.end;
  }

  Counts& counts_;
  const std::int64_t *count_, *end_;
  std::int64_t position_ = 0;
  bool foreground_ = false;  // does one begin at the position?
};

void decode_columns(Counts& counts, std::uint8_t* out, std::uint8_t* const end) {
  int value = 0;
  for (auto block = counts.next(); block.begin != block.end; block = counts.next()) {
    for (const std::int64_t* count = block.begin; count != block.end; ++count) {
      // What is written too far gets overwritten by the next runs.
      if (*count <= 64 && end - out >= 64) {
        std::memset(out, value, 64);
      } else {
        std::memset(out, value, static_cast<std::size_t>(*count));
      }
      out += *count;
      value ^= 1;
    }
  }
  std::memset(out, 0, static_cast<std::size_t>(end - out));
}

// Marks where each column changes going down, a bit for each pixel, mirrors the bits in squares of 64 by 64, and then
// lets every row inherit from the row above it.
void decode_rows(Counts& counts, std::int64_t height, std::int64_t width, std::uint8_t* out) {
  const std::int64_t words = (width + 63) / 64, bands = (height + 63) / 64;
  // Squares that change, one after the other: what lies behind them is memory that the system need not even provide.
  const Words squares = make_words(bands * words * 64);
  std::uint64_t* end_of_squares = squares.get();
  std::vector<const std::uint64_t*> square_at(static_cast<std::size_t>(bands * words));  // [band][word]
  std::vector<std::uint64_t> columns(static_cast<std::size_t>(64 * bands));              // [band][column], of one word
  RunEnds ends(counts);
  std::uint64_t value = 0;
  for (std::int64_t w = 0; w < words; ++w) {
    for (std::int64_t x = w * 64; x < std::min(width, w * 64 + 64); ++x) {
      std::uint64_t* column = columns.data() + x % 64;
      std::uint64_t bits = value;
      std::int64_t band = 0;
      for (; ends.position() < (x + 1) * height; ends.next(), value ^= 1) {
        const std::int64_t y = ends.position() - x * height;
        if (y / 64 != band) {
          column[band * 64] = bits;
          band = y / 64;
          bits = 0;
        }
        bits ^= std::uint64_t{1} << (y % 64);
      }
      column[band * 64] = bits;
    }
    for (std::int64_t band = 0; band < bands; ++band) {
      std::uint64_t *square = columns.data() + band * 64, any = 0;
      for (int i = 0; i < 64; ++i) any |= square[i];
      if (!any) continue;
      transpose_bits(square, end_of_squares);
      square_at[static_cast<std::size_t>(band * words + w)] = end_of_squares;
      end_of_squares += 64;
      std::fill_n(square, 64, 0);
    }
  }

  std::uint8_t* const end = out + height * width;
  std::vector<std::uint64_t> row(static_cast<std::size_t>(words));
  std::vector<std::pair<std::uint64_t*, const std::uint64_t*>> changing;  // words of the row, and their squares
  for (std::int64_t y = 0; y < height; ++y) {
    if (y % 64 == 0) {
      changing.clear();
      const auto* const in_band = square_at.data() + y / 64 * words;
      for (std::size_t w = 0; w < row.size(); ++w) {
        if (in_band[w]) changing.emplace_back(row.data() + w, in_band[w]);
      }
    }
    for (const auto& [bits, square] : changing) *bits ^= square[y % 64];
    for (const std::uint64_t bits : row) {
      // As above, what is written too far gets overwritten.
      if (end - out >= 64) {
        spread_bits(bits, out);
      } else {
        std::uint8_t pixels[64];
        spread_bits(bits, pixels);
        std::memcpy(out, pixels, static_cast<std::size_t>(end - out));
      }
      out += 64;
    }
    out += width - words * 64;
  }
}

}  // namespace

std::string encode(const Tensor& mask) { return encode_samples(Bytes{}, mask); }

std::string encode_above(const Tensor& values, float threshold) { return encode_samples(Floats{threshold}, values); }

void decode(const Encoded& mask, Order order, std::uint8_t* out) {
  Counts counts(mask);
  if (mask.pixels() == 0) return;
  const bool one_line = mask.height == 1 || mask.width == 1;
  order == Order::kRow && !one_line ? decode_rows(counts, mask.height, mask.width, out)
                                    : decode_columns(counts, out, out + mask.pixels());
}
