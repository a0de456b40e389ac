#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace visdeploy {

// Where the answer goes.
struct MultiboxTarget {
  float* offsets;        // (B, 4 N)
  float* mask;           // (B, 4 N)
  std::int64_t* labels;  // (B, N)
};

// The d2l book's training targets of anchors (N, 4) for labels (B, M, 5), rows of class, x1, y1, x2, y2. An anchor gets
// the box that it overlaps most, if its IoU is at least 0.5; then boxes take the anchor they overlap most, largest IoU
// first. Ties take the lower anchor, then the lower row; an IoU of 0 / 0 is NaN and counts as the largest, as there.
// Rows of a class below zero are padding: skipped, or treated as the book does, which gives each of them an anchor.
void multibox_target(const Tensor& anchors, const Tensor& labels, bool skip_padding, const MultiboxTarget& out,
                     int num_threads);

namespace cuda {
void multibox_target(const Tensor& anchors, const Tensor& labels, bool skip_padding, Stream stream,
                     const MultiboxTarget& out);
}

}  // namespace visdeploy
