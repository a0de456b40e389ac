#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "ops/rle.h"
#include "ops/transitions.h"

namespace visdeploy::cpu {
namespace {

// The lines of a 2-D byte view as contiguous memory; lines that are not get copied into one of two buffers, so the
// line asked for and the one asked for before it are valid together.
class Lines {
 public:
  Lines(const Tensor& mask, std::size_t along)
      : mask_(mask), length_(mask.shape[along]), step_(mask.strides[along]), next_(mask.strides[1 - along]) {}

  const std::uint8_t* operator()(std::int64_t line) {
    const auto* source = mask_.at<std::uint8_t>(line * next_);
    if (step_ == 1) return source;
    std::vector<std::uint8_t>& buffer = buffers_[turn_ ^= 1];
    buffer.resize(static_cast<std::size_t>(length_));
    for (std::int64_t i = 0; i < length_; ++i) buffer[static_cast<std::size_t>(i)] = source[i * step_];
    return buffer.data();
  }

 private:
  const Tensor& mask_;
  std::int64_t length_, step_, next_;
  std::array<std::vector<std::uint8_t>, 2> buffers_;
  std::size_t turn_ = 0;
};

std::vector<std::int64_t> along_the_runs(const Tensor& mask, std::int64_t height, std::int64_t width) {
  Lines columns(mask, 0);
  Transitions transitions;
  std::uint8_t before = 0;
  for (std::int64_t x = 0; x < width; ++x) {
    const std::uint8_t* column = columns(x);
    if (column[0] != before) transitions.add(x * height);
    transitions.add_differences(column + 1, column, height - 1, x * height + 1);
    before = column[height - 1];
  }
  return transitions.in_order();
}

// See Note [Transitions across the run axis].
std::vector<std::int64_t> across_the_runs(const Tensor& mask, std::int64_t height, std::int64_t width) {
  Lines rows(mask, 1);
  Transitions transitions;
  const std::uint8_t* last = rows(height - 1);
  const std::uint8_t* before = rows(0);
  transitions.add_wrapped_line(before, last, width);
  for (std::int64_t y = 1; y < height; ++y) {
    const std::uint8_t* row = rows(y);
    transitions.begin_line(y);
    transitions.add_differences(row, before, width, 0);
    before = row;
  }
  return transitions.sorted(width, height);
}

// Calls emit(begin, end) for every non-empty foreground run.
template <class Emit>
void for_each_run(const Rle& rle, const Emit& emit) {
  std::int64_t position = 0;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    const std::int64_t begin = position;
    position += rle.counts[i];
    if (i % 2 == 1 && position > begin) emit(begin, position);
  }
}

// Marks where each column changes going down, then lets every row inherit from the row above it.
void decode_rows(const Rle& rle, std::uint8_t* out) {
  const std::int64_t height = rle.height, width = rle.width;
  for_each_run(rle, [&](std::int64_t begin, std::int64_t end) {
    out[begin % height * width + begin / height] ^= 1;
    for (std::int64_t x = begin / height + 1; x * height < end; ++x) out[x] ^= 1;
    if (end % height != 0) out[end % height * width + end / height] ^= 1;
  });
  for (std::int64_t i = width; i < height * width; ++i) out[i] ^= out[i - width];
}

}  // namespace

Rle encode(const Tensor& mask) {
  const std::int64_t height = mask.shape[0], width = mask.shape[1];
  if (height * width == 0) return {height, width, {0}};
  const bool columns_are_denser = std::abs(mask.strides[0]) < std::abs(mask.strides[1]);
  auto positions = columns_are_denser ? along_the_runs(mask, height, width) : across_the_runs(mask, height, width);
  return {height, width, to_counts(std::move(positions), height * width)};
}

void decode(const Rle& rle, Order order, std::uint8_t* out) {
  if (order == Order::kRow) return decode_rows(rle, out);
  for_each_run(rle, [&](std::int64_t begin, std::int64_t end) {
    std::memset(out + begin, 1, static_cast<std::size_t>(end - begin));
  });
}

// Neighbouring columns differ wherever exactly one of them has a run, so merging their run ends gives the rows at
// which a transition crosses from one to the other. Work is in proportion to the columns and the runs of the result.
Rle transpose(const Rle& rle) {
  const std::int64_t height = rle.height, width = rle.width;
  if (height * width == 0) return {width, height, {0}};
  std::vector<std::int64_t> ends;
  for_each_run(rle, [&](std::int64_t begin, std::int64_t end) { ends.insert(ends.end(), {begin, end}); });

  // The rows at which column x changes, its run closed at the bottom, moved down by `shift`.
  const auto toggles_of = [&](std::int64_t x, std::int64_t shift) {
    std::vector<std::int64_t> toggles;
    auto end = std::lower_bound(ends.begin(), ends.end(), x * height);
    if ((end - ends.begin()) % 2 == 1) toggles.push_back(shift);
    for (; end != ends.end() && *end < (x + 1) * height; ++end) toggles.push_back(*end - x * height + shift);
    if (toggles.size() % 2 == 1) toggles.push_back(height + shift);
    return toggles;
  };

  Transitions transitions;
  transitions.begin_wrapped_line();
  std::vector<std::int64_t> before = toggles_of(width - 1, 1), merged;
  for (std::int64_t x = 0; x < width; ++x) {
    const std::vector<std::int64_t> column = toggles_of(x, 0);
    merged.clear();
    std::merge(before.begin(), before.end(), column.begin(), column.end(), std::back_inserter(merged));
    for (std::size_t i = 0; i < merged.size(); i += 2) {
      for (std::int64_t y = merged[i]; y < std::min(merged[i + 1], height); ++y) transitions.add(y);
    }
    before = column;
    transitions.begin_line(x + 1);
  }
  return {width, height, to_counts(transitions.sorted(height, width), height * width)};
}

}  // namespace visdeploy::cpu
