#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

// Greedy non-maximum suppression. A box is dropped when its IoU with a better box that was kept, rounded to the boxes'
// own precision, exceeds the threshold, which is a double: torchvision's rule, to the last bit.
namespace visdeploy {

constexpr std::int64_t kUnlimitedOutput = INT64_MAX;

// For boxes that come best first, n rows of x1, y1, x2, y2: the indices kept, ascending, at most max_output.
// On the calling thread, for ops that bring their own candidates.
void suppress(const float* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept);
void suppress(const double* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept);

}  // namespace visdeploy
