#pragma once

#include <cuda_runtime.h>

// Boxes on a device, and where two meet. The operations are those of the CPU, each rounded for itself. min and max
// treat NaN otherwise than std::min and std::max do, which changes no IoU: a box with a coordinate of NaN has an area
// of NaN.
namespace visdeploy::cuda {

__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double product(double a, double b) { return __dmul_rn(a, b); }

// Aligned so that it is read at once.
template <class T>
struct alignas(16) Box {
  T x1, y1, x2, y2;

  __device__ T area() const { return product(x2 - x1, y2 - y1); }
};

template <class T>
__device__ T intersection(const Box<T>& a, const Box<T>& b) {
  const T w = max(T{0}, min(a.x2, b.x2) - max(a.x1, b.x1));
  const T h = max(T{0}, min(a.y2, b.y2) - max(a.y1, b.y1));
  return product(w, h);
}

}  // namespace visdeploy::cuda
