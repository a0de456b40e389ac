#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ops/nms.h"

namespace visdeploy::cpu {
namespace {

template <class T>
struct Lanes {
  static constexpr int kSize = 8;

  template <class Block, class Box>
  static std::uint32_t may_exceed(const Block& block, const Box& box, T share) {
    bool passes[kSize];
    for (int i = 0; i < kSize; ++i) {
      const T w = std::max(T{0}, std::min(block.x2[i], box.x2) - std::max(block.x1[i], box.x1));
      const T h = std::min(block.y2[i], box.y2) - std::max(block.y1[i], box.y1);
      passes[i] = w * h - block.share[i] > share;
    }
    std::uint32_t bits = 0;
    for (int i = 0; i < kSize; ++i) bits |= static_cast<std::uint32_t>(passes[i]) << i;
    return bits;
  }
};

#include "ops/nms_greedy.h"

}  // namespace

template <class T>
void suppress(const T* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept) {
  suppress_sorted(boxes, n, iou_threshold, max_output, kept);
}

template void suppress(const float*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);
template void suppress(const double*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);

}  // namespace visdeploy::cpu
