#include "ops/box_iou.h"

#include "core/contiguous.h"
#include "core/device.h"
#include "core/error.h"

namespace visdeploy {

void check_box_iou(const Tensor& a, const Tensor& b) {
  VD_CHECK(a.dtype == DType::kFloat32 || a.dtype == DType::kFloat64, "[box_iou] a: expected float32 or float64, got ",
           name(a.dtype));
  VD_CHECK(b.dtype == a.dtype, "[box_iou] b: expected ", name(a.dtype), " as a is, got ", name(b.dtype));
  VD_CHECK(a.rank() == 2 && a.shape[1] == 4, "[box_iou] a: expected (N, 4), got ", a.shape_text());
  VD_CHECK(b.rank() == 2 && b.shape[1] == 4, "[box_iou] b: expected (M, 4), got ", b.shape_text());
}

void box_iou(const Tensor& a, const Tensor& b, void* out, int num_threads) {
  if (const auto stream = device_of("box_iou", {{"a", &a}, {"b", &b}})) return cuda::box_iou(a, b, *stream, out);
  const auto compute = [&](auto zero) {
    using T = decltype(zero);
    const Contiguous<T> rows(a), columns(b);
    cpu::box_iou(rows.data(), a.shape[0], columns.data(), b.shape[0], static_cast<T*>(out), num_threads);
  };
  a.dtype == DType::kFloat32 ? compute(0.0f) : compute(0.0);
}

}  // namespace visdeploy
