// See Note [Code for one instruction set] in bits_cpu.h.

// Note [Transitions across the run axis]
// Runs follow one axis of a mask (COCO: down the columns) while memory usually follows the other. So each line of
// memory is compared with the line below it: where they differ, a run ends. Below the last line comes line 0, moved by
// one place, because a run goes from the bottom of a column to the top of the next. The bits that say where, 64 to a
// word, get mirrored in squares of 64 lines by 64 columns, after which each column can be read in run order. Squares
// without a transition, most of them in a mask of objects, cost one look; which ones they are is itself a table of
// bits, and gets mirrored in the same way.
namespace {

// Memory that is not zeroed first.
using Words = std::unique_ptr<std::uint64_t[]>;
inline Words make_words(std::int64_t n) { return Words(new std::uint64_t[static_cast<std::size_t>(n)]); }

// Takes lines of bits from the top down and gives columns from left to right.
class BitColumns {
 public:
  BitColumns(std::int64_t lines, std::int64_t width)
      : lines_(lines),
        width_(width),
        words_((width + 63) / 64),
        bands_((lines + 63) / 64),
        groups_((bands_ + 63) / 64),
        band_(make_words(words_ * kSquare)),
        columns_(make_words(width_ * bands_ + 8)),
        active_(make_words(words_ * 64 * groups_)) {
    std::memset(active_.get(), 0, static_cast<std::size_t>(words_ * groups_) * 64 * sizeof(std::uint64_t));
  }

  // Adds the next line: where n samples, at most the width, differ. See for_each_word.
  template <class Samples>
  void add_line(const Samples& samples, const std::uint8_t* a, const std::uint8_t* b, std::int64_t n,
                std::int64_t ahead) {
    std::uint64_t* line = band_.get() + line_ % 64;
    line[(words_ - 1) * kSquare] = 0;
    for_each_word(samples, a, b, n, ahead, [&](std::uint64_t word, std::int64_t) {
      *line = word;
      line += kSquare;
    });
    if (++line_ % 64 == 0 || line_ == lines_) end_band();
  }

  // The same of two lines of bits.
  void add_line(const std::vector<std::uint64_t>& a, const std::vector<std::uint64_t>& b) {
    std::uint64_t* line = band_.get() + line_ % 64;
    for (std::size_t w = 0; w < a.size(); ++w, line += kSquare) *line = a[w] ^ b[w];
    if (++line_ % 64 == 0 || line_ == lines_) end_band();
  }

  // The same of a line of at most 64 columns, as a word that says where it differs.
  void add_line(std::uint64_t word) {
    band_.get()[line_ % 64] = word;
    if (++line_ % 64 == 0 || line_ == lines_) end_band();
  }

  // Calls emit(word, x, y) from left to right and from the top down for every word with any bit set; bit i stands for
  // line y + i of column x.
  template <class Emit>
  void for_each(const Emit& emit) const {
    std::vector<const std::uint64_t*> next;
    for (std::int64_t band = 0; band < bands_; ++band) next.push_back(columns_.get() + band * width_);
    // Which words come next, listed before they are used: their number differs from column to column, and the end of a
    // loop over those of one is what the processor would guess wrong. Six bits for the column, the others for the band.
    const std::unique_ptr<std::uint32_t[]> list(new std::uint32_t[static_cast<std::size_t>(64 * bands_ + 64)]);
    const Words active = make_words(groups_ * 64);  // [64 bands][column]
    for (std::int64_t w = 0; w < words_; ++w) {
      for (std::int64_t g = 0; g < groups_; ++g) {
        transpose_bits(active_.get() + (g * words_ + w) * 64, active.get() + g * 64);
      }
      std::uint32_t* end = list.get();
      for (std::uint32_t i = 0; i < 64; ++i) {
        for (std::int64_t g = 0; g < groups_; ++g) {
          end = append_positions(active.get()[g * 64 + i], i << 26 | static_cast<std::uint32_t>(g * 64), end);
        }
      }
      for (const std::uint32_t* entry = list.get(); entry < end; ++entry) {
        const std::uint32_t band = *entry & ((1 << 26) - 1), i = *entry >> 26;
        emit(*next[band]++, w * 64 + i, std::int64_t{band} * 64);
      }
    }
  }

 private:
  void end_band() {
    const std::int64_t band = (line_ - 1) / 64, filled = (line_ - 1) % 64 + 1;
    std::uint64_t* out = columns_.get() + band * width_;
    for (std::int64_t w = 0; w < words_; ++w) {
      std::uint64_t* square = band_.get() + w * kSquare;
      std::uint64_t any = 0;
      for (std::int64_t i = filled; i < 64; ++i) square[i] = 0;
      for (int i = 0; i < 64; ++i) any |= square[i];
      if (!any) continue;
      active_.get()[(band / 64 * words_ + w) * 64 + band % 64] = any;
      std::uint64_t mirrored[64];
      transpose_bits(square, mirrored);
      out = append_words(any, mirrored, out);
    }
  }

  // Words from one square to the next: with 64 the words of a line would all fall into the same few sets of the cache.
  static constexpr std::int64_t kSquare = 72;

  const std::int64_t lines_, width_, words_, bands_, groups_;
  Words band_;     // [word][line]: 64 lines of bits
  Words columns_;  // [band]: 64 lines of each active column, side by side
  Words active_;   // [64 bands][word][band]: the columns that have any bit set in the band
  std::int64_t line_ = 0;
};

}  // namespace
