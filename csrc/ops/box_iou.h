#pragma once

#include "core/tensor.h"

namespace visdeploy {

// Intersection over union of boxes (N, 4) with boxes (M, 4), both float32 or both float64, x1, y1, x2, y2, to (N, M) of
// the same dtype in out, where a lies. NaN where the union is zero.
void box_iou(const Tensor& a, const Tensor& b, void* out, int num_threads);

// What box_iou refuses, before anything is allocated for it.
void check_box_iou(const Tensor& a, const Tensor& b);

namespace cpu {
void box_iou(const float* a, std::int64_t n, const float* b, std::int64_t m, float* out, int num_threads);
void box_iou(const double* a, std::int64_t n, const double* b, std::int64_t m, double* out, int num_threads);
}  // namespace cpu
namespace cuda {
void box_iou(const Tensor& a, const Tensor& b, Stream stream, void* out);
}

}  // namespace visdeploy
