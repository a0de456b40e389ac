#include "core/cuda.cuh"
#include "ops/box_iou.h"
#include "ops/overlap.cuh"

namespace visdeploy::cuda {
namespace {

constexpr std::int64_t kRows = 16;

// One thread per column and kRows rows: its own box stays in registers, neighbours write neighbours, and all read the
// same box of `a`.
template <class T>
__global__ void box_iou_kernel(const T* a, std::int64_t n, const T* b, std::int64_t m, T* out) {
  const std::int64_t wide = (m + kThreads - 1) / kThreads, tasks = wide * ((n + kRows - 1) / kRows);
  for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const std::int64_t column = task % wide * kThreads + threadIdx.x, first = task / wide * kRows;
    if (column >= m) continue;
    const T* at = b + 4 * column;
    const Box<T> own{at[0], at[1], at[2], at[3]};
    for (std::int64_t row = first; row < min(first + kRows, n); ++row) {
      at = a + 4 * row;
      const Box<T> other{at[0], at[1], at[2], at[3]};
      const T inter = intersection(other, own);
      out[row * m + column] = inter / (other.area() + own.area() - inter);
    }
  }
}

}  // namespace

void box_iou(const Tensor& a, const Tensor& b, Stream stream, void* out) {
  const Scope scope("box_iou", stream);
  const std::int64_t n = a.shape[0], m = b.shape[0];
  const auto compute = [&](auto zero) {
    using T = decltype(zero);
    const Contiguous<T> rows(a, stream), columns(b, stream);
    launch(box_iou_kernel<T>, blocks_for(m * ((n + kRows - 1) / kRows)), kThreads, stream, rows.data(), n,
           columns.data(), m, static_cast<T*>(out));
  };
  a.dtype == DType::kFloat32 ? compute(0.0f) : compute(0.0);
}

}  // namespace visdeploy::cuda
