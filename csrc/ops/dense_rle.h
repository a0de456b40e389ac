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

// Rows are denser. See Note [Transitions across the run axis].
template <class Samples>
std::uint32_t* encode_rows(const Samples& samples, const Tensor& mask, CountsWriter& writer, std::uint32_t* end) {
  constexpr std::int64_t kStrip = 4096;  // columns, whose bits shall stay in cache
  const std::int64_t height = mask.shape[0], width = mask.shape[1];
  Lines<Samples> rows(mask, 1);
  if (samples.first_differs(rows(0, 0, 1), Samples::kBackground)) end = writer.add(1, 0, end);
  for (std::int64_t left = 0; left < width; left += kStrip) {
    const std::int64_t n = std::min(kStrip, width - left);
    BitColumns columns(height, n);
    const std::int64_t ahead = mask.strides[0] * (kAhead / (n * Samples::kSize) + 1);
    const std::uint8_t* above = rows(0, left, n);
    for (std::int64_t y = 1; y < height; ++y) {
      const std::uint8_t* row = rows(y, left, n);
      columns.add_line(samples, row, above, n, ahead);
      above = row;
    }
    const std::int64_t below = std::min(n, width - left - 1);
    columns.add_line(samples, rows(0, left + 1, below), above, below, 0);
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

// The ends of the runs in ascending order: a pixel is foreground where an odd number of them is not above it.
class RunEnds {
 public:
  explicit RunEnds(const Rle& rle) : count_(rle.counts.data()), last_(count_ + rle.counts.size() / 2 * 2) { next(); }

  std::int64_t position() const { return position_; }

  void next() { position_ = count_ < last_ ? position_ + *count_++ : std::numeric_limits<std::int64_t>::max(); }

 private:
  const std::int64_t *count_, *last_;
  std::int64_t position_ = 0;
};

void decode_columns(const Rle& rle, std::uint8_t* out) {
  std::uint8_t* const end = out + rle.pixels();
  int value = 0;
  for (const std::int64_t count : rle.counts) {
    // What is written too far gets overwritten by the next runs.
    if (count <= 64 && end - out >= 64) {
      std::memset(out, value, 64);
    } else {
      std::memset(out, value, static_cast<std::size_t>(count));
    }
    out += count;
    value ^= 1;
  }
  std::memset(out, 0, static_cast<std::size_t>(end - out));
}

// Marks where each column changes going down, a bit for each pixel, mirrors the bits, and then lets every row inherit
// from the row above it.
void decode_rows(const Rle& rle, std::uint8_t* out) {
  const std::int64_t height = rle.height, width = rle.width;
  const std::int64_t words = (width + 63) / 64, bands = (height + 63) / 64;
  const Words lines = make_words(bands * 64 * words);  // [line][word]
  std::vector<std::uint64_t> columns(static_cast<std::size_t>(64 * bands));
  RunEnds ends(rle);
  std::uint64_t value = 0;
  for (std::int64_t w = 0; w < words; ++w) {
    for (std::int64_t x = w * 64; x < std::min(width, w * 64 + 64); ++x) {
      std::uint64_t* column = columns.data() + x % 64 * bands;
      column[0] = value;
      for (; ends.position() < (x + 1) * height; ends.next(), value ^= 1) {
        const std::int64_t y = ends.position() - x * height;
        column[y / 64] ^= std::uint64_t{1} << (y % 64);
      }
    }
    for (std::int64_t band = 0; band < bands; ++band) {
      std::uint64_t square[64], mirrored[64], any = 0;
      for (int i = 0; i < 64; ++i) any |= square[i] = columns[static_cast<std::size_t>(i * bands + band)];
      if (any) {
        transpose_bits(square, mirrored);
      } else {
        std::memset(mirrored, 0, sizeof(mirrored));
      }
      std::uint64_t* line = lines.get() + band * 64 * words + w;
      for (int i = 0; i < 64; ++i) line[i * words] = mirrored[i];
    }
    std::fill(columns.begin(), columns.end(), 0);
  }
  std::uint8_t* const end = out + height * width;
  std::vector<std::uint64_t> row(static_cast<std::size_t>(words));
  for (std::int64_t y = 0; y < height; ++y) {
    for (std::int64_t w = 0; w < words; ++w) {
      const std::uint64_t bits = row[static_cast<std::size_t>(w)] ^= lines.get()[y * words + w];
      std::uint8_t* to = out + y * width + w * 64;
      // As above, what is written too far gets overwritten.
      if (end - to >= 64) {
        spread_bits(bits, to);
        continue;
      }
      std::uint8_t pixels[64];
      spread_bits(bits, pixels);
      std::memcpy(to, pixels, static_cast<std::size_t>(width - w * 64));
    }
  }
}

}  // namespace

std::string encode(const Tensor& mask) { return encode_samples(Bytes{}, mask); }

std::string encode_above(const Tensor& values, float threshold) { return encode_samples(Floats{threshold}, values); }

void decode(const Rle& rle, Order order, std::uint8_t* out) {
  if (rle.pixels() == 0) return;
  order == Order::kRow ? decode_rows(rle, out) : decode_columns(rle, out);
}
