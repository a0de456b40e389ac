#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace visdeploy {

// The d2l book's detections: cls_probs (B, C + 1, N) with the background first, offsets (B, 4 N), anchors (N, 4). Every
// anchor becomes a box of its best class; NMS over all classes together keeps a box if its float32 IoU with every
// better kept one is at most the threshold as float32, so that an IoU of NaN drops it. Into (B, N, 6) rows of class,
// confidence, x1, y1, x2, y2: those kept, best first, equal ones by index, then the rest by index, with class -1. Below
// pos_threshold the class is -1 too, and the confidence one minus itself.
void multibox_detection(const Tensor& cls_probs, const Tensor& offsets, const Tensor& anchors, double nms_threshold,
                        double pos_threshold, float* out, int num_threads);

// Variants of its NMS: the boxes kept, by `order`, which names all n of them; see Note [NMS of anchors].
#define VD_DECLARE_SUPPRESS                                                                              \
  void suppress_anchors(const float* boxes, const std::uint32_t* order, std::int64_t n, float threshold, \
                        std::vector<std::uint32_t>& kept);
namespace cpu {
VD_DECLARE_SUPPRESS
}
namespace avx2 {
VD_DECLARE_SUPPRESS
}
#undef VD_DECLARE_SUPPRESS
namespace cuda {
void multibox_detection(const Tensor& cls_probs, const Tensor& offsets, const Tensor& anchors, float nms_threshold,
                        float pos_threshold, Stream stream, float* out);
}

}  // namespace visdeploy
