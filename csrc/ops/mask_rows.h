// See Note [Code for one instruction set] in bits_cpu.h, and Note [Labels before pixels] in taps.h.
namespace {

// A line of bits, 64 to a word.
using BitLine = std::vector<std::uint64_t>;

// Sets the bits from `begin` to before `end` to a value.
inline void set_range(BitLine& line, std::int64_t begin, std::int64_t end, bool value) {
  while (begin < end) {
    const std::int64_t n = std::min(64 - begin % 64, end - begin);
    const std::uint64_t bits = (~std::uint64_t{0} >> (64 - n)) << (begin % 64);
    std::uint64_t& word = line[static_cast<std::size_t>(begin / 64)];
    word = value ? word | bits : word & ~bits;
    begin += n;
  }
}

// Calls emit(begin, end) for every stretch of set bits, or the parts of one that lie in different words.
template <class Emit>
void for_each_range(std::uint64_t bits, std::int64_t first, const Emit& emit) {
  while (bits) {
    const int begin = __builtin_ctzll(bits);
    const std::uint64_t clear = ~(bits >> begin);
    const int n = clear ? std::min(__builtin_ctzll(clear), 64 - begin) : 64;
    emit(first + begin, first + begin + n);
    bits &= begin + n < 64 ? ~std::uint64_t{0} << (begin + n) : 0;
  }
}

// Produces, row by row from the top, one bit for every output pixel: is its logit above the threshold?
class MaskRows {
 public:
  // Logits (h, w).
  MaskRows(const Tensor& logits, Size size, float threshold)
      : logits_(logits),
        source_width_(logits.shape[1]),
        threshold_(threshold),
        rows_(logits.shape[0], size.first),
        columns_(source_width_, size.second),
        words_(static_cast<std::size_t>(size.second + 63) / 64),
        mixed_(static_cast<std::size_t>(source_width_ + 63) / 64),
        bits_(words_),
        mixed_columns_(words_) {
    for (SourceRow* row : {&low_, &high_}) {
      row->values.assign(mixed_.size() * 64, std::numeric_limits<float>::quiet_NaN());
      row->wide.resize(words_ * 64);
      row->above.resize(mixed_.size());
    }
  }

  const BitLine& bits() const { return bits_; }

  // Row y, which comes after row y - 1.
  void next(std::int64_t y) {
    const auto at = static_cast<std::size_t>(y);
    if (rows_.low[at] != low_.index || rows_.high[at] != high_.index) enter(rows_.low[at], rows_.high[at]);
    const float weight = rows_.weight[at];
    for (std::size_t w = 0; w < words_; ++w) {
      if (!mixed_columns_[w]) continue;
      const float *a = low_.wide.data() + w * 64, *b = high_.wide.data() + w * 64;
      float values[64];
      for (int i = 0; i < 64; ++i) values[i] = between(a[i], b[i], weight);
      const std::uint64_t above = floats_above(reinterpret_cast<const std::uint8_t*>(values), threshold_);
      bits_[w] = (bits_[w] & ~mixed_columns_[w]) | (above & mixed_columns_[w]);
    }
  }

 private:
  // A source row: its logits, which of them are above, and the logits at the output columns of mixed cells.
  struct SourceRow {
    std::int64_t index = -1;
    std::vector<float> values, wide;
    BitLine above;
  };

  void read(SourceRow& row, std::int64_t index) const {
    row.index = index;
    read_row(logits_.at<std::byte>(index * logits_.strides[0]), logits_.strides[1], source_width_, row.values.data());
    for (std::size_t w = 0; w < row.above.size(); ++w) {
      row.above[w] = floats_above(reinterpret_cast<const std::uint8_t*>(row.values.data() + w * 64), threshold_);
    }
  }

  // Makes (low, high) the pair of source rows that the next ones lie between.
  void enter(std::int64_t low, std::int64_t high) {
    const bool adjoins = low == low_.index || low == high_.index;
    if (low == high_.index) std::swap(low_, high_);
    if (low != low_.index) read(low_, low);
    if (high != high_.index) read(high_, high);
    std::fill(mixed_columns_.begin(), mixed_columns_.end(), 0);
    for (std::size_t w = 0; w < mixed_.size(); ++w) {
      const std::int64_t first = static_cast<std::int64_t>(w) * 64;
      const int cells = static_cast<int>(std::min<std::int64_t>(64, source_width_ - first));
      const std::uint64_t exist = ~std::uint64_t{0} >> (64 - cells), above = low_.above[w];
      // Cells whose four corners disagree. The last one has no corners to its right.
      const std::uint64_t right = w + 1 < mixed_.size() ? exist : exist >> 1;
      const std::uint64_t mixed = (above ^ high_.above[w]) | ((changes(low_, w) | changes(high_, w)) & right);
      // A cell that was and stays uniform shares a source row with the pair before, and so its label.
      const std::uint64_t settled = exist & ~mixed & (adjoins ? mixed_[w] : exist);
      mixed_[w] = mixed;
      const auto& column = columns_.begin;
      const auto set = [&](BitLine& line, std::uint64_t which, bool value) {
        for_each_range(which, first, [&](std::int64_t begin, std::int64_t end) {
          set_range(line, column[static_cast<std::size_t>(begin)], column[static_cast<std::size_t>(end)], value);
        });
      };
      set(bits_, settled & above, true);
      set(bits_, settled & ~above, false);
      set(mixed_columns_, mixed, true);
      for_each_range(mixed, first, [&](std::int64_t begin, std::int64_t end) {
        const std::int64_t left = column[static_cast<std::size_t>(begin)],
                           right = column[static_cast<std::size_t>(end)];
        for (SourceRow* row : {&low_, &high_}) columns_.stretch(row->values.data(), left, right, row->wide.data());
      });
    }
  }

  // Where a source row differs from the sample to the right.
  static std::uint64_t changes(const SourceRow& row, std::size_t w) {
    const std::uint64_t carry = w + 1 < row.above.size() ? row.above[w + 1] << 63 : 0;
    return row.above[w] ^ (row.above[w] >> 1 | carry);
  }

  const Tensor logits_;
  const std::int64_t source_width_;
  const float threshold_;
  const Taps rows_, columns_;
  const std::size_t words_;
  SourceRow low_, high_;
  BitLine mixed_;          // source columns: do the four corners of the cell disagree?
  BitLine bits_;           // output columns
  BitLine mixed_columns_;  // output columns: do they lie in such a cell?
};

}  // namespace
