#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>
#include <vector>

#include "core/error.h"
#include "ops/polygon.h"

// Note [Polygons, five times enlarged]
//
// pycocotools rounds the corners to a grid of fifths of a pixel, walks along every edge one step of that grid at a
// time, and toggles the mask wherever the walk steps across the middle of a pixel column: from x = 5n + 2 to 5n + 3,
// or back. The pixel that is toggled follows from the lower of the two y that the step joins.
//
// The steps of one edge are xs + t and (int)(ys + slope * t + .5), or the same with x and y swapped where the edge is
// steep. So the few t at which an edge crosses the middle of a column are known without walking, and only those are
// computed, with pycocotools' own expression and therefore its own rounding. Steps from the end of one edge to the
// beginning of the next do not move in x, apart from some left of the image, so no crossing is lost between edges.
//
// Two toggles of one pixel cancel. A toggle below the last row is one of the first row of the next column.
namespace visdeploy::cpu {
namespace {

// Outlines of real objects have thousands.
constexpr std::int64_t kMaxCrossings = std::int64_t{1} << 24;

// An edge on the fine grid, and the pixel columns whose middle it crosses.
struct Edge {
  std::int64_t x0, y0, x1, y1;
  std::int64_t first, last;
};

std::int64_t enlarge(double coordinate) { return static_cast<std::int64_t>(5 * coordinate + .5); }

// The row that a crossing toggles, from the lower y of its step.
std::uint32_t row_of(std::int64_t y, std::int64_t height) {
  return y <= 2 ? 0 : static_cast<std::uint32_t>(std::min(height, (y + 2) / 5));
}

// Most columns of most outlines have two.
void sort(std::uint32_t* begin, std::uint32_t* end) {
  if (end - begin != 2) return std::sort(begin, end);
  const auto [low, high] = std::minmax({begin[0], begin[1]});
  begin[0] = low;
  begin[1] = high;
}

// Calls toggle(column, row) for every crossing of the edge.
template <class Toggle>
void cross_columns(Edge edge, std::int64_t height, Toggle toggle) {
  const std::int64_t dx = std::abs(edge.x1 - edge.x0), dy = std::abs(edge.y1 - edge.y0);
  const bool flat = dx >= dy;
  if (flat ? edge.x0 > edge.x1 : edge.y0 > edge.y1) {
    std::swap(edge.x0, edge.x1);
    std::swap(edge.y0, edge.y1);
  }
  const auto x0 = static_cast<double>(edge.x0), y0 = static_cast<double>(edge.y0);
  if (flat) {
    const double slope = static_cast<double>(edge.y1 - edge.y0) / static_cast<double>(dx);
    const std::int64_t lower = slope < 0 ? 1 : 0;
    for (std::int64_t column = edge.first; column <= edge.last; ++column) {
      const auto t = static_cast<double>(5 * column + 2 - edge.x0 + lower);
      toggle(column, row_of(static_cast<std::int64_t>(y0 + slope * t + .5), height));
    }
    return;
  }
  const double slope = static_cast<double>(edge.x1 - edge.x0) / static_cast<double>(dy);
  const double inverse = static_cast<double>(dy) / static_cast<double>(edge.x1 - edge.x0);
  for (std::int64_t column = edge.first; column <= edge.last; ++column) {
    const auto right = static_cast<double>(5 * column + 3);
    // The first t beyond the crossing: estimated, then made exact.
    const auto beyond = [&](std::int64_t t) {
      return (x0 + slope * static_cast<double>(t) + .5 >= right) == (slope > 0);
    };
    auto t = static_cast<std::int64_t>((right - .5 - x0) * inverse) + 1;
    while (beyond(t - 1)) --t;
    while (!beyond(t)) ++t;
    toggle(column, row_of(edge.y0 + t - 1, height));
  }
}

}  // namespace

Rle from_polygon(const double* xy, std::int64_t points, std::int64_t height, std::int64_t width) {
  std::vector<Edge> edges;
  edges.reserve(static_cast<std::size_t>(points));
  std::int64_t first = width, last = -1, crossings = 0;
  for (std::int64_t i = 0; i < points; ++i) {
    const std::int64_t next = i + 1 < points ? i + 1 : 0;
    Edge edge{enlarge(xy[2 * i]), enlarge(xy[2 * i + 1]), enlarge(xy[2 * next]), enlarge(xy[2 * next + 1]), 0, 0};
    const auto [left, right] = std::minmax(edge.x0, edge.x1);
    if (right < 3) continue;
    edge.first = left <= 2 ? 0 : (left + 2) / 5;
    edge.last = std::min(width - 1, (right - 3) / 5);
    if (edge.first > edge.last) continue;
    first = std::min(first, edge.first);
    last = std::max(last, edge.last);
    crossings += edge.last - edge.first + 1;
    VD_CHECK(crossings <= kMaxCrossings, "[frPyObjects] polygon: its edges cross more than ", kMaxCrossings,
             " pixel columns");
    edges.push_back(edge);
  }

  // The rows of each column's crossings in one block, column by column: how many there are is known beforehand.
  const auto columns = static_cast<std::size_t>(std::max<std::int64_t>(0, last - first + 1));
  std::vector<std::uint32_t> begin(columns + 2);
  for (const Edge& edge : edges) {
    ++begin[static_cast<std::size_t>(edge.first - first + 1)];
    --begin[static_cast<std::size_t>(edge.last - first + 2)];
  }
  for (std::size_t pass = 0; pass < 2; ++pass) {
    for (std::size_t i = 1; i < begin.size(); ++i) begin[i] += begin[i - 1];
  }
  std::vector<std::uint32_t> rows(static_cast<std::size_t>(crossings));
  for (const Edge& edge : edges) {
    cross_columns(edge, height, [&](std::int64_t column, std::uint32_t row) {
      rows[begin[static_cast<std::size_t>(column - first)]++] = row;
    });
  }

  // Toggles in order, as the ends of runs; two of one pixel cancel.
  std::vector<std::int64_t> ends;
  ends.reserve(rows.size() + 1);
  std::uint32_t* at = rows.data();
  for (std::size_t i = 0; i < columns; ++i) {
    // Filling has moved the beginning of each column to its end.
    std::uint32_t* const end = rows.data() + begin[i];
    sort(at, end);
    const std::int64_t top = (first + static_cast<std::int64_t>(i)) * height;
    for (; at != end; ++at) {
      if (!ends.empty() && ends.back() == top + *at) {
        ends.pop_back();
      } else {
        ends.push_back(top + *at);
      }
    }
  }
  Rle rle{height, width, std::move(ends)};
  if (!rle.counts.empty() && rle.counts.back() == rle.pixels()) rle.counts.pop_back();
  rle.counts.push_back(rle.pixels());
  std::adjacent_difference(rle.counts.begin(), rle.counts.end(), rle.counts.begin());
  return rle;
}

}  // namespace visdeploy::cpu
