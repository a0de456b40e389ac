// See Note [Code for one instruction set] in bits_cpu.h, and Note [Labels before pixels] in taps.h.
namespace {

// Produces, row by row from the top, the label of every output pixel.
class LabelRows {
 public:
  // Logits (C, h, w). The label is the class that exceeds all before it, 0 where all are NaN.
  LabelRows(const Tensor& logits, Size size);

  // Writes row y; `before` is row y - 1 as it was written, and unused for row 0.
  void row(std::int64_t y, const std::uint8_t* before, std::uint8_t* out);

 private:
  struct Span {
    std::size_t begin, end;
  };
  // A source row: its logits (C, w), their labels, and the logits stretched to (C, W) inside the spans.
  struct SourceRow {
    std::int64_t index = -1;
    std::vector<float> values, wide;
    std::vector<std::uint8_t> labels;
  };

  void read(SourceRow& row, std::int64_t index) const;
  void enter(std::int64_t low, std::int64_t high);
  void stretch(SourceRow& row) const;
  template <class Value>
  void label(std::int64_t begin, std::int64_t end, const Value& value, std::uint8_t* out) const;

  const Tensor logits_;
  const std::int64_t classes_, source_width_, width_;
  const Taps rows_, columns_;

  SourceRow low_, high_;
  std::vector<std::uint8_t> mixed_;         // by source column: do the four corners of the cell disagree?
  std::vector<Span> spans_, spans_before_;  // the mixed cells of this pair of source rows, and of the pair before
};

// The first index from i on whose byte is not zero, or the size.
inline std::size_t next_nonzero(const std::vector<std::uint8_t>& bytes, std::size_t i) {
  for (std::uint64_t word; i + sizeof(word) <= bytes.size(); i += sizeof(word)) {
    std::memcpy(&word, bytes.data() + i, sizeof(word));
    if (word) break;
  }
  while (i < bytes.size() && !bytes[i]) ++i;
  return i;
}

inline LabelRows::LabelRows(const Tensor& logits, Size size)
    : logits_(logits),
      classes_(logits.shape[0]),
      source_width_(logits.shape[2]),
      width_(size.second),
      rows_(logits.shape[1], size.first),
      columns_(source_width_, width_) {
  const auto cells = static_cast<std::size_t>(source_width_);
  mixed_.resize(cells);
  for (SourceRow* row : {&low_, &high_}) {
    row->values.resize(static_cast<std::size_t>(classes_) * cells);
    row->wide.resize(static_cast<std::size_t>(classes_ * width_));
    row->labels.resize(cells);
  }
}

// Writes the label of columns begin to end, where value(c, x) is the logit of class c. In blocks that stay in cache.
template <class Value>
void LabelRows::label(std::int64_t begin, std::int64_t end, const Value& value, std::uint8_t* out) const {
  constexpr std::int64_t kBlock = 256;
  float best[kBlock];
  std::int32_t winner[kBlock];
  for (; begin < end; begin += kBlock) {
    const std::int64_t n = std::min(kBlock, end - begin);
    std::fill_n(best, n, -std::numeric_limits<float>::infinity());
    std::fill_n(winner, n, 0);
    for (std::int64_t c = 0; c < classes_; ++c) {
      const auto at = value(c, begin);
      const auto label = static_cast<std::int32_t>(c);
      // A mask, because GCC turns two choices on one condition into a branch, which it does not vectorise.
      for (std::int64_t i = 0; i < n; ++i) {
        const float v = at(i);
        const std::int32_t wins = -static_cast<std::int32_t>(v > best[i]);
        winner[i] = (label & wins) | (winner[i] & ~wins);
        best[i] = v > best[i] ? v : best[i];
      }
    }
    for (std::int64_t i = 0; i < n; ++i) out[begin + i] = static_cast<std::uint8_t>(winner[i]);
  }
}

inline void LabelRows::read(SourceRow& row, std::int64_t index) const {
  row.index = index;
  for (std::int64_t c = 0; c < classes_; ++c) {
    const auto* source = logits_.at<std::byte>(c * logits_.strides[0] + index * logits_.strides[1]);
    read_row(source, logits_.strides[2], source_width_, row.values.data() + c * source_width_);
  }
  const auto value = [&](std::int64_t c, std::int64_t begin) {
    const float* at = row.values.data() + c * source_width_ + begin;
    return [at](std::int64_t i) { return at[i]; };
  };
  label(0, source_width_, value, row.labels.data());
}

// Fills row.wide inside the spans with the logits of the row at output columns.
inline void LabelRows::stretch(SourceRow& row) const {
  for (std::int64_t c = 0; c < classes_; ++c) {
    const float* values = row.values.data() + c * source_width_;
    float* wide = row.wide.data() + c * width_;
    for (const auto [begin, end] : spans_) columns_.stretch(values, columns_.begin[begin], columns_.begin[end], wide);
  }
}

// Makes (low, high) the current pair of source rows and finds the cells between them that need a closer look.
inline void LabelRows::enter(std::int64_t low, std::int64_t high) {
  if (low == high_.index) std::swap(low_, high_);
  if (low != low_.index) read(low_, low);
  if (high != high_.index) read(high_, high);

  const std::uint8_t *a = low_.labels.data(), *b = high_.labels.data();
  const std::int64_t last = source_width_ - 1;
  for (std::int64_t c = 0; c < last; ++c) {
    const int differences = (a[c] ^ a[c + 1]) | (a[c] ^ b[c]) | (b[c] ^ b[c + 1]);
    mixed_[static_cast<std::size_t>(c)] = static_cast<std::uint8_t>(differences);
  }
  mixed_[static_cast<std::size_t>(last)] = a[last] ^ b[last];

  std::swap(spans_, spans_before_);
  spans_.clear();
  const std::size_t cells = mixed_.size();
  for (std::size_t cell = 0; (cell = next_nonzero(mixed_, cell)) < cells;) {
    const std::size_t begin = cell;
    while (cell < cells && mixed_[cell]) ++cell;
    spans_.push_back({begin, cell});
  }
  stretch(low_);
  stretch(high_);
}

inline void LabelRows::row(std::int64_t y, const std::uint8_t* before, std::uint8_t* out) {
  const std::int64_t low = rows_.low[static_cast<std::size_t>(y)], high = rows_.high[static_cast<std::size_t>(y)];
  if (low == high && width_ == source_width_) {
    read(low_, low);
    std::copy(low_.labels.begin(), low_.labels.end(), out);
    return;
  }
  const bool adjoins = low == low_.index || low == high_.index;
  const bool entering = low != low_.index || high != high_.index;
  if (adjoins) std::memcpy(out, before, static_cast<std::size_t>(width_));
  if (entering) {
    enter(low, high);
    // A cell that was and stays uniform shares a source row with the pair before, and so its label.
    if (!adjoins) spans_before_ = {{0, mixed_.size()}};
    for (const auto [begin, end] : spans_before_) {
      for (std::size_t c = begin; c < end; ++c) {
        if (!mixed_[c]) std::fill(out + columns_.begin[c], out + columns_.begin[c + 1], low_.labels[c]);
      }
    }
  }
  const float w = rows_.weight[static_cast<std::size_t>(y)];
  const auto value = [&](std::int64_t c, std::int64_t begin) {
    const float* a = low_.wide.data() + c * width_ + begin;
    const float* b = high_.wide.data() + c * width_ + begin;
    return [a, b, w](std::int64_t i) { return between(a[i], b[i], w); };
  };
  for (const auto [begin, end] : spans_) label(columns_.begin[begin], columns_.begin[end], value, out);
}

}  // namespace
