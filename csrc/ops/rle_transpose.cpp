#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "ops/rle.h"

namespace visdeploy {
namespace {

// The points of a mask at which runs end, brought from the order of the columns into that of the rows.
class Transitions {
 public:
  void add(std::int64_t x, std::int64_t y) {
    points_.push_back({static_cast<std::uint32_t>(y), static_cast<std::uint32_t>(x)});
  }

  // Positions y * width + x, ascending, of what was added with ascending x for each y.
  std::vector<std::int64_t> sorted(std::int64_t height, std::int64_t width) const {
    std::vector<std::int64_t> positions(points_.size());
    const auto position = [&](const Point& p) { return std::int64_t{p.y} * width + p.x; };
    // Few points in a huge image: a table of its height would cost more than it saves.
    if (static_cast<std::size_t>(height) / 16 > points_.size()) {
      std::transform(points_.begin(), points_.end(), positions.begin(), position);
      std::sort(positions.begin(), positions.end());
      return positions;
    }
    std::vector<std::size_t> slot(static_cast<std::size_t>(height) + 1);
    for (const Point& p : points_) ++slot[p.y + std::size_t{1}];
    for (std::size_t i = 1; i < slot.size(); ++i) slot[i] += slot[i - 1];
    for (const Point& p : points_) positions[slot[p.y]++] = position(p);
    return positions;
  }

 private:
  struct Point {
    std::uint32_t y, x;
  };
  std::vector<Point> points_;
};

}  // namespace

// Going right, a row changes where exactly one of two neighbouring columns is foreground, so merging the run ends of
// both gives the rows that do. Right of the last column comes the first one, moved up by one. Work is in proportion to
// the columns and the runs of the result, of which a hostile text of few runs may ask for as many as the mask has rows.
Rle transpose(const Rle& rle) {
  const std::int64_t height = rle.height, width = rle.width, pixels = rle.pixels();
  if (pixels == 0) return {width, height, {0}};
  if (height == 1 || width == 1) return {width, height, rle.counts};
  // Of every run of foreground, its begin and its end.
  std::vector<std::int64_t> ends(rle.counts.size() / 2 * 2);
  std::partial_sum(rle.counts.begin(), rle.counts.begin() + static_cast<std::ptrdiff_t>(ends.size()), ends.begin());

  // The rows at which column x changes, its last run closed at the bottom.
  auto end = ends.begin();
  const auto read = [&](std::int64_t x, std::vector<std::int64_t>& rows) {
    rows.clear();
    if ((end - ends.begin()) % 2 == 1) rows.push_back(0);
    for (; end != ends.end() && *end < (x + 1) * height; ++end) rows.push_back(*end - x * height);
    if (rows.size() % 2 == 1) rows.push_back(height);
  };
  Transitions transitions;
  std::vector<std::int64_t> left, right, merged;
  const auto compare = [&](std::int64_t x, std::int64_t bottom) {
    merged.resize(left.size() + right.size());
    std::merge(left.begin(), left.end(), right.begin(), right.end(), merged.begin());
    for (std::size_t i = 0; i < merged.size(); i += 2) {
      for (std::int64_t y = merged[i]; y < std::min(merged[i + 1], bottom); ++y) transitions.add(x, y);
    }
  };
  read(0, left);
  std::vector<std::int64_t> first = left;
  for (std::int64_t x = 1; x < width; ++x) {
    read(x, right);
    compare(x, height);
    std::swap(left, right);
  }
  const bool begins = !first.empty() && first[0] == 0 && first[1] > 0;
  for (std::int64_t& y : first) y = std::max<std::int64_t>(y - 1, 0);
  right = std::move(first);
  compare(width, height - 1);

  Rle result{width, height, {}};
  if (begins) result.counts.push_back(0);
  std::int64_t before = 0;
  for (const std::int64_t position : transitions.sorted(height, width)) {
    result.counts.push_back(position - before);
    before = position;
  }
  result.counts.push_back(pixels - before);
  return result;
}

}  // namespace visdeploy
