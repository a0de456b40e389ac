#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "core/tensor.h"

// Offsets of boxes from anchors, and back. Boxes and anchors are rows of x1, y1, x2, y2.
namespace visdeploy {

// kVariances is the d2l book's arithmetic, scale being 1 / variance; kWeights is torchvision's BoxCoder, scale being
// the weight. Either way an offset is divided by its scale.
enum class BoxRule { kVariances, kWeights };

struct BoxCoder {
  BoxRule rule;
  float scale[4];
};

// From exactly one of the two: variances of 2 numbers (centre, size) or 4, or 4 weights.
BoxCoder box_coder(const char* op, const std::optional<std::vector<double>>& variances,
                   const std::optional<std::vector<double>>& weights);

// Height and width that boxes are clipped to.
using ClipSize = std::optional<std::pair<double, double>>;

// Offsets (N, 4) or (B, N, 4) and anchors (N, 4) or (1, N, 4) to boxes shaped as the offsets.
void decode_boxes(const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder, const ClipSize& clip, float* out,
                  int num_threads);
// The inverse.
void encode_boxes(const Tensor& boxes, const Tensor& anchors, const BoxCoder& coder, float* out, int num_threads);

// For ops that bring their own rows: n of each, on the calling thread.
void decode_rows(const float* offsets, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out);
void encode_rows(const float* boxes, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out);
void clip_rows(float* boxes, std::int64_t n, float height, float width);

// Variants of decode_rows and encode_rows.
#define VD_DECLARE_CODING                                                                                     \
  void decode(const float* offsets, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out); \
  void encode(const float* boxes, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out);
namespace cpu {
VD_DECLARE_CODING
}
namespace avx2 {
VD_DECLARE_CODING
}
namespace avx512 {
VD_DECLARE_CODING
}
#undef VD_DECLARE_CODING
namespace cuda {
void decode_boxes(const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder, const ClipSize& clip,
                  Stream stream, float* out);
void encode_boxes(const Tensor& boxes, const Tensor& anchors, const BoxCoder& coder, Stream stream, float* out);
}  // namespace cuda

// The N of anchors that must be (N, 4) or (1, N, 4) float32.
std::int64_t check_anchors(const char* op, const Tensor& anchors);

}  // namespace visdeploy
