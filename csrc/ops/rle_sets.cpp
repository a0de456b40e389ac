#include "ops/rle_sets.h"

#include <algorithm>

#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"

// Note [Bit planes]
//
// Two masks meet in as many pixels as walking along both their runs finds, at some nanoseconds a run. Where one of
// many masks is compared with many, each is painted once as bits instead: words of 64 rows, one beside the other for
// the columns of its box, one such band below the other. What two masks share is then counted over the columns and
// bands that their boxes share. Masks whose runs are few for the size of their box stay runs.
namespace visdeploy {

Runs::Runs(const std::vector<Encoded>& masks) {
  masks_.reserve(masks.size());
  std::size_t most = 0;
  for (const Encoded& mask : masks) most += std::visit([](const auto& counts) { return counts.size(); }, mask.counts);
  ends_.reserve(most);
  for (const Encoded& mask : masks) {
    VD_CHECK(mask.pixels() <= kMaxPixels, "[rle] size: at most ", kMaxPixels, " pixels, got [", mask.height, ", ",
             mask.width, "]");
    const std::size_t first = ends_.size();
    std::uint32_t end = 0;
    Counts counts(mask);
    for (auto block = counts.next(); block.begin != block.end; block = counts.next()) {
      const std::size_t read = ends_.size();
      ends_.resize(read + static_cast<std::size_t>(block.end - block.begin));
      std::transform(block.begin, block.end, ends_.begin() + static_cast<std::ptrdiff_t>(read),
                     [&](std::int64_t count) { return end += static_cast<std::uint32_t>(count); });
    }
    masks_.push_back({mask.height, mask.width, first, ends_.size() - first});
  }
}

namespace {

std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n) {
  if (isa() == Isa::kAvx512) return avx512::common_bits(a, b, n);
  if (isa() == Isa::kAvx2) return avx2::common_bits(a, b, n);
  return cpu::common_bits(a, b, n);
}

void box_iou_row(const Boxes& dt, const double* gt, bool crowd, double* out) {
  if (isa() == Isa::kAvx512) return avx512::box_iou_row(dt, gt, crowd, out);
  if (isa() == Isa::kAvx2) return avx2::box_iou_row(dt, gt, crowd, out);
  return cpu::box_iou_row(dt, gt, crowd, out);
}

// The column that a position lies in, as positions go up.
struct Column {
  const std::int64_t height;
  std::int64_t x = 0, begin = 0;

  void move_to(std::int64_t position) {
    const std::int64_t below = position - begin;
    if (below < height) return;
    // Mostly the next column, which needs no division.
    const std::int64_t ahead = below < 2 * height ? 1 : below / height;
    x += ahead;
    begin += ahead * height;
  }
};

struct Item {
  Runs::View runs;
  std::int64_t left, top, right, bottom;  // the box, last column and row included
  std::int64_t area;
  const std::uint64_t* plane;  // null where the mask stays runs
};

std::int64_t columns(const Item& item) { return item.right - item.left + 1; }
std::int64_t bands(const Item& item) { return item.bottom / 64 - item.top / 64 + 1; }

Item measure(const Runs::View& runs) {
  Item item{runs, runs.width, runs.height, -1, -1, 0, nullptr};
  Column column{runs.height};
  for (std::size_t i = 1; i < runs.n; i += 2) {
    const std::int64_t begin = runs.ends[i - 1], end = runs.ends[i];
    if (begin == end) continue;
    column.move_to(begin);
    const bool goes_on = end - column.begin > runs.height;
    item.left = std::min(item.left, column.x);
    item.top = std::min(item.top, goes_on ? 0 : begin - column.begin);
    item.bottom = std::max(item.bottom, goes_on ? runs.height - 1 : end - 1 - column.begin);
    column.move_to(end - 1);
    item.right = column.x;
    item.area += end - begin;
  }
  return item;
}

void paint(const Item& item, std::uint64_t* plane) {
  const std::int64_t stride = columns(item), top = item.top / 64;
  Column column{item.runs.height};
  for (std::size_t i = 1; i < item.runs.n; i += 2) {
    const std::int64_t end = item.runs.ends[i];
    for (std::int64_t begin = item.runs.ends[i - 1]; begin < end;) {
      column.move_to(begin);
      const std::int64_t stop = std::min(end, column.begin + column.height);
      const std::int64_t first = begin - column.begin, last = stop - 1 - column.begin;
      std::uint64_t* word = plane + (first / 64 - top) * stride + (column.x - item.left);
      std::uint64_t bits = ~std::uint64_t{0} << (first % 64);
      for (std::int64_t band = first / 64; band < last / 64; ++band, word += stride, bits = ~std::uint64_t{0}) {
        *word |= bits;
      }
      *word |= bits & (~std::uint64_t{0} >> (63 - last % 64));
      begin = stop;
    }
  }
}

class Items {
 public:
  Items(const Runs& masks, bool as_planes) {
    // By measurement: how many words are counted in the time of one run.
    const std::size_t words_per_run = isa() == Isa::kScalar ? 2 : 8;
    items_.reserve(masks.size());
    std::size_t words = 0;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < masks.size(); ++i) {
      const Item& item = items_.emplace_back(measure(masks[i]));
      const auto needed = item.area > 0 ? static_cast<std::size_t>(columns(item) * bands(item)) : 0;
      const bool dense = as_planes && needed > 0 && needed <= words_per_run * item.runs.n;
      places.push_back(dense ? words : kNone);
      if (dense) words += needed;
    }
    planes_.resize(words);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (places[i] == kNone) continue;
      paint(items_[i], planes_.data() + places[i]);
      items_[i].plane = planes_.data() + places[i];
    }
  }

  const Item& operator[](std::size_t i) const { return items_[i]; }

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};
  std::vector<Item> items_;
  std::vector<std::uint64_t> planes_;
};

std::int64_t common_in_planes(const Item& a, const Item& b) {
  const std::int64_t left = std::max(a.left, b.left), n = std::min(a.right, b.right) - left + 1;
  const std::int64_t first = std::max(a.top, b.top) / 64, last = std::min(a.bottom, b.bottom) / 64;
  std::int64_t sum = 0;
  for (std::int64_t band = first; band <= last; ++band) {
    sum += common_bits(a.plane + (band - a.top / 64) * columns(a) + (left - a.left),
                       b.plane + (band - b.top / 64) * columns(b) + (left - b.left), n);
  }
  return sum;
}

// The first run of foreground that ends behind `position`, as the index of its end.
std::size_t first_behind(const Runs::View& runs, std::int64_t position) {
  std::size_t low = 0, high = runs.n / 2;
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (runs.ends[2 * middle + 1] > position) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return 2 * low + 1;
}

std::int64_t common_in_runs(const Item& a, const Item& b) {
  const std::int64_t from = std::max(a.left, b.left) * a.runs.height;
  std::size_t i = first_behind(a.runs, from), j = first_behind(b.runs, from);
  std::int64_t sum = 0;
  while (i < a.runs.n && j < b.runs.n) {
    const std::int64_t a_end = a.runs.ends[i], b_end = b.runs.ends[j];
    const std::int64_t begin = std::max(a.runs.ends[i - 1], b.runs.ends[j - 1]);
    sum += std::max<std::int64_t>(0, std::min(a_end, b_end) - begin);
    i += 2 * static_cast<std::size_t>(a_end <= b_end);
    j += 2 * static_cast<std::size_t>(b_end <= a_end);
  }
  return sum;
}

double iou(const Item& dt, const Item& gt, bool crowd) {
  const bool boxes_meet = dt.left <= gt.right && gt.left <= dt.right && dt.top <= gt.bottom && gt.top <= dt.bottom;
  if (!boxes_meet) return 0;
  if (dt.runs.height != gt.runs.height || dt.runs.width != gt.runs.width) return -1;
  const std::int64_t common = dt.plane && gt.plane ? common_in_planes(dt, gt) : common_in_runs(dt, gt);
  if (common == 0) return 0;
  return static_cast<double>(common) / static_cast<double>(crowd ? dt.area : dt.area + gt.area - common);
}

}  // namespace

void iou(const Runs& dt, const Runs& gt, const std::uint8_t* crowd, double* out, int num_threads) {
  const std::size_t m = dt.size(), n = gt.size();
  const bool as_planes = std::min(m, n) >= 4;
  const Items dts(dt, as_planes), gts(gt, as_planes);
  const double work = 50.0 * static_cast<double>(m) * static_cast<double>(n);
  parallel_for(static_cast<std::int64_t>(n), choose_threads(num_threads, work), [&](std::int64_t g) {
    const auto i = static_cast<std::size_t>(g);
    for (std::size_t d = 0; d < m; ++d) out[i * m + d] = iou(dts[d], gts[i], crowd[i]);
  });
}

Boxes::Boxes(const double* xywh, std::size_t count) : n(count), stride_((count + 7) / 8 * 8), values_(5 * stride_) {
  for (std::size_t i = 0; i < n; ++i) {
    const double* box = xywh + 4 * i;
    values_[i] = box[0];
    values_[stride_ + i] = box[1];
    values_[2 * stride_ + i] = box[2] + box[0];
    values_[3 * stride_ + i] = box[3] + box[1];
    values_[4 * stride_ + i] = box[2] * box[3];
  }
}

void iou(const double* dt, std::int64_t m, const double* gt, std::int64_t n, const std::uint8_t* crowd, double* out,
         int num_threads) {
  const Boxes boxes(dt, static_cast<std::size_t>(m));
  const double work = static_cast<double>(m) * static_cast<double>(n);
  parallel_for(n, choose_threads(num_threads, work),
               [&](std::int64_t g) { box_iou_row(boxes, gt + 4 * g, crowd[g], out + g * m); });
}

Merged merge(const Runs& masks, bool intersect) {
  if (masks.size() == 0) return {};
  const Runs::View first = masks[0];
  for (std::size_t i = 1; i < masks.size(); ++i) {
    if (masks[i].height != first.height || masks[i].width != first.width) return {};
  }
  if (masks.size() == 1) return {first.height, first.width, to_string(first.ends, first.n)};
  const std::vector<std::uint32_t> ends = cpu::merge(masks, intersect);
  return {first.height, first.width, to_string(ends.data(), ends.size())};
}

}  // namespace visdeploy
