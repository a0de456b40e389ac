#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "ops/semantic_map.h"

namespace visdeploy::cpu {

// Note [Labels before pixels]
// A bilinear value lies between its four corners. So where all four agree on a label (the class that is greatest, or
// the side of a threshold), every pixel between them has it too, and only the cells that a border crosses need their
// values computed. Borders are thin: most of the work is one look at each logit.

// The two source samples of each output position along one axis, and the weight of the second.
struct Taps {
  Taps(std::int64_t source, std::int64_t target);

  std::vector<std::int64_t> low, high;
  std::vector<float> weight;
};

// Produces, row by row from the top, the label of every output pixel.
class LabelRows {
 public:
  // Logits (C, h, w). A class c wins with label first_label + c where it exceeds `floor` and all classes before it;
  // where none does the label is 0.
  LabelRows(const Tensor& logits, Size size, float floor, std::uint8_t first_label);

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
  const float floor_;
  const std::uint8_t first_label_;
  const Taps rows_, columns_;
  std::vector<std::int64_t> cell_begin_;  // the first output column of each source column

  SourceRow low_, high_;
  std::vector<std::uint8_t> mixed_;         // by source column: do the four corners of the cell disagree?
  std::vector<Span> spans_, spans_before_;  // the mixed cells of this pair of source rows, and of the pair before
};

}  // namespace visdeploy::cpu
