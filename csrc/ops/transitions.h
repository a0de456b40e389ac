#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace visdeploy {

// Note [Transitions across the run axis]
// Runs follow one axis of a mask (COCO: down the columns) while memory usually follows the other. So each line of
// memory is compared with the line before it: where they differ, a run ends. Line 0 continues the last line one place
// further on, because a run goes from the bottom of a column to the top of the next. Transitions then come out line
// by line; a stable counting sort by index brings them into run order. The mask is read once, in memory order.

// Collects where neighbouring lines differ.
class Transitions {
 public:
  // What is added from now on belongs to `line`; lines must come in ascending order.
  void begin_line(std::int64_t line) { line_ = static_cast<std::uint32_t>(line); }

  // As begin_line(0), but may also come after all other lines, once the last one is known.
  void begin_wrapped_line() {
    begin_line(0);
    first_ = size_;
  }

  void add(std::int64_t index) {
    make_room(1);
    points_[size_++] = {static_cast<std::uint32_t>(index), line_};
  }

  // Adds offset + i for every i < n where a[i] != b[i].
  void add_differences(const std::uint8_t* a, const std::uint8_t* b, std::int64_t n, std::int64_t offset) {
    std::int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
      std::uint64_t x[4], y[4];
      std::memcpy(x, a + i, 32);
      std::memcpy(y, b + i, 32);
      if (!((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]))) continue;
      // One loop over all 32, not one for each word: its end is what the processor guesses wrong.
      std::uint64_t different = 0;
      for (int k = 0; k < 4; ++k) different |= nonzero_bytes(x[k] ^ y[k]) << (8 * k);
      make_room(32);
      for (; different; different &= different - 1) {
        points_[size_++] = {static_cast<std::uint32_t>(offset + i + __builtin_ctzll(different)), line_};
      }
    }
    make_room(32);
    for (; i < n; ++i) {
      if (a[i] != b[i]) points_[size_++] = {static_cast<std::uint32_t>(offset + i), line_};
    }
  }

  void add_wrapped_line(const std::uint8_t* first, const std::uint8_t* last, std::int64_t n) {
    begin_wrapped_line();
    if (first[0] != 0) add(0);
    add_differences(first + 1, last, n - 1, 1);
  }

  // Positions index * lines + line in ascending order; every index is below `width`.
  std::vector<std::int64_t> sorted(std::int64_t width, std::int64_t lines) const {
    const auto position = [&](const Point& p) { return std::int64_t{p.index} * lines + p.line; };
    const auto begin = points_.begin(), end = begin + static_cast<std::ptrdiff_t>(size_);
    std::vector<std::int64_t> positions;
    positions.reserve(size_ + 1);  // to_counts adds one
    positions.resize(size_);
    // Few points in a huge image: a table of its width would cost more than it saves.
    if (static_cast<std::size_t>(width) / 16 > size_) {
      std::transform(begin, end, positions.begin(), position);
      std::sort(positions.begin(), positions.end());
      return positions;
    }
    std::vector<std::size_t> slot(static_cast<std::size_t>(width) + 1);
    std::for_each(begin, end, [&](const Point& p) { ++slot[p.index + std::size_t{1}]; });
    for (std::size_t i = 1; i < slot.size(); ++i) slot[i] += slot[i - 1];
    const auto place = [&](const Point& p) { positions[slot[p.index]++] = position(p); };
    const auto wrapped = begin + static_cast<std::ptrdiff_t>(first_);
    std::for_each(wrapped, end, place);
    std::for_each(begin, wrapped, place);
    return positions;
  }

  // The indices as they were added, for lines that follow the runs.
  std::vector<std::int64_t> in_order() const {
    std::vector<std::int64_t> positions;
    positions.reserve(size_ + 1);
    for (std::size_t i = 0; i < size_; ++i) positions.push_back(points_[i].index);
    return positions;
  }

 private:
  struct Point {
    std::uint32_t index, line;
  };

  // Bit i of the result says whether byte i, the lowest being 0, has any bit set.
  static std::uint64_t nonzero_bytes(std::uint64_t word) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lowest byte must be the first in memory");
    constexpr std::uint64_t low_bits = 0x7f7f7f7f7f7f7f7f;
    const std::uint64_t top_bits = (((word & low_bits) + low_bits) | word) & ~low_bits;
    return (top_bits >> 7) * 0x0102040810204080 >> 56;  // shifts the eight bits next to each other
  }

  // Checked once for a block of points, which is what push_back would do for each.
  void make_room(std::size_t n) {
    if (points_.size() < size_ + n) points_.resize(2 * points_.size() + n);
  }

  std::vector<Point> points_;  // the first size_ are in use
  std::size_t size_ = 0;
  std::size_t first_ = 0;
  std::uint32_t line_ = 0;
};

// Run lengths between ascending transitions over `total` pixels.
inline std::vector<std::int64_t> to_counts(std::vector<std::int64_t> positions, std::int64_t total) {
  std::int64_t before = 0;
  for (std::int64_t& position : positions) {
    const std::int64_t count = position - before;
    before = position;
    position = count;
  }
  positions.push_back(total - before);
  return positions;
}

}  // namespace visdeploy
