#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ops/rle.h"

// What many masks have in common, from their runs.
namespace visdeploy {

// Masks as the positions at which their runs end, one mask after the other. The first run is background; behind the
// last one there is only background.
class Runs {
 public:
  struct View {
    std::int64_t height, width;
    const std::uint32_t* ends;
    std::size_t n;
    std::int64_t pixels() const { return height * width; }
    std::uint32_t last_end() const { return n ? ends[n - 1] : 0; }
  };

  explicit Runs(const std::vector<Encoded>& masks);

  std::size_t size() const { return masks_.size(); }
  std::size_t total_ends() const { return ends_.size(); }
  View operator[](std::size_t i) const {
    const Mask& mask = masks_[i];
    return {mask.height, mask.width, ends_.data() + mask.first, mask.n};
  }

 private:
  struct Mask {
    std::int64_t height, width;
    std::size_t first, n;
  };
  std::vector<Mask> masks_;
  std::vector<std::uint32_t> ends_;
};

// Boxes, each of their properties side by side, with room behind for whole registers.
class Boxes {
 public:
  Boxes(const double* xywh, std::size_t count);

  const std::size_t n;
  const double* left() const { return values_.data(); }
  const double* top() const { return left() + stride_; }
  const double* right() const { return left() + 2 * stride_; }
  const double* bottom() const { return left() + 3 * stride_; }
  const double* area() const { return left() + 4 * stride_; }

 private:
  std::size_t stride_;
  std::vector<double> values_;
};

// Intersection over union of every dt with every gt, into out[g * dt.size() + d]. Of a crowd, where crowd[g] is not
// zero, the union is the area of dt alone. -1 where sizes differ and the boxes of the masks overlap, as in pycocotools.
void iou(const Runs& dt, const Runs& gt, const std::uint8_t* crowd, double* out, int num_threads);

// The same for boxes (x, y, width, height), m and n of them, in pycocotools' arithmetic, NaN included.
void iou(const double* dt, std::int64_t m, const double* gt, std::int64_t n, const std::uint8_t* crowd, double* out,
         int num_threads);

struct Merged {
  std::int64_t height = 0, width = 0;
  std::string counts;  // COCO's string
};

// The union of all masks, or their intersection. One mask is given back as it came; none, or masks of different
// sizes, give size [0, 0] without counts.
Merged merge(const Runs& masks, bool intersect);

// Implementations. Only rle_sets.cpp calls them.
//
// common_bits: how many bits are set in both a and b, n words each.
// box_iou_row: iou of all dt with one gt.

namespace cpu {
std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n);
void box_iou_row(const Boxes& dt, const double* gt, bool crowd, double* out);
// Of two masks and more, where the runs of the merged one end.
std::vector<std::uint32_t> merge(const Runs& masks, bool intersect);
}  // namespace cpu

namespace avx2 {
std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n);
void box_iou_row(const Boxes& dt, const double* gt, bool crowd, double* out);
}  // namespace avx2

namespace avx512 {
std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n);
void box_iou_row(const Boxes& dt, const double* gt, bool crowd, double* out);
}  // namespace avx512

}  // namespace visdeploy
