#include <limits>

#include "ops/semantic_map.h"
#include "ops/transitions.h"
#include "ops/upsample_labels.h"

namespace visdeploy::cpu {

Rle encode_logits(const Tensor& logits, Size size, float threshold) {
  const auto [height, width] = size;
  Tensor planes = logits;
  planes.shape.insert(planes.shape.begin(), 1);
  planes.strides.insert(planes.strides.begin(), 0);
  LabelRows rows(planes, size, threshold, 1);

  std::vector<std::uint8_t> row(static_cast<std::size_t>(width)), before(row.size());
  rows.row(0, nullptr, row.data());
  const std::vector<std::uint8_t> first = row;
  Transitions transitions;
  for (std::int64_t y = 1; y < height; ++y) {
    std::swap(row, before);
    rows.row(y, before.data(), row.data());
    transitions.begin_line(y);
    transitions.add_differences(row.data(), before.data(), width, 0);
  }
  transitions.add_wrapped_line(first.data(), row.data(), width);
  return {height, width, to_counts(transitions.sorted(width, height), height * width)};
}

SemanticMap semantic_map(const Tensor& logits, Size size, std::uint8_t* map) {
  const auto [height, width] = size;
  LabelRows rows(logits, size, -std::numeric_limits<float>::infinity(), 0);
  Transitions transitions;
  rows.row(0, nullptr, map);
  for (std::int64_t y = 1; y < height; ++y) {
    std::uint8_t *row = map + y * width, *before = row - width;
    rows.row(y, before, row);
    transitions.begin_line(y);
    transitions.add_differences(row, before, width, 0);
  }
  transitions.add_wrapped_line(map, map + (height - 1) * width, width);

  // Walked in run order, each transition closes a run of one class and opens one of another.
  const auto classes = static_cast<std::size_t>(logits.shape[0]);
  SemanticMap result{std::vector<std::int64_t>(classes), std::vector<Rle>(classes, Rle{height, width, {}})};
  std::int64_t begin = 0, x = 0;
  std::size_t label = map[0];
  result.rles[label].counts.push_back(0);
  const auto close = [&](std::int64_t end) {
    result.areas[label] += end - begin;
    begin = end;
  };
  for (const std::int64_t position : transitions.sorted(width, height)) {
    if (position == 0) continue;  // background to the class of the first pixel, which is open already
    close(position);
    result.rles[label].counts.push_back(position);
    while (position >= (x + 1) * height) ++x;
    label = map[(position - x * height) * width + x];
    result.rles[label].counts.push_back(position);
  }
  close(height * width);
  // What holds positions so far shall hold counts.
  for (Rle& rle : result.rles) rle.counts = to_counts(std::move(rle.counts), height * width);
  return result;
}

}  // namespace visdeploy::cpu
