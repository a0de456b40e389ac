#include "ops/nms.h"

#include <algorithm>

namespace visdeploy {
namespace {

template <class T>
void greedy(const T* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
            std::vector<std::int64_t>& kept) {
  kept.clear();
  for (std::int64_t i = 0; i < n && static_cast<std::int64_t>(kept.size()) < max_output; ++i) {
    const T* b = boxes + 4 * i;
    const bool dropped = std::any_of(kept.begin(), kept.end(), [&](std::int64_t k) {
      const T* a = boxes + 4 * k;
      const T w = std::max(T{0}, std::min(a[2], b[2]) - std::max(a[0], b[0]));
      const T h = std::max(T{0}, std::min(a[3], b[3]) - std::max(a[1], b[1]));
      const T inter = w * h;
      return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter) > iou_threshold;
    });
    if (!dropped) kept.push_back(i);
  }
}

}  // namespace

void suppress(const float* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept) {
  greedy(boxes, n, iou_threshold, max_output, kept);
}

void suppress(const double* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept) {
  greedy(boxes, n, iou_threshold, max_output, kept);
}

}  // namespace visdeploy
