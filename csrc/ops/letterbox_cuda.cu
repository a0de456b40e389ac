#include "core/cuda.cuh"
#include "ops/letterbox.h"

namespace visdeploy::cuda {
namespace {

#define VD_INLINE __device__ inline
#include "ops/letterbox_pixel.h"

// One thread per pixel of the result. Neighbours read pixels that are neighbours or overlap, from the L1 cache where
// many become one, and write neighbours.
template <class T>
__global__ void letterbox_kernel(Resize resize, T* out) {
  for (std::int64_t i = grid_index(); i < resize.to.height * resize.to.width; i += grid_step()) {
    write_pixel(resize, i / resize.to.width, i % resize.to.width, out + 3 * i);
  }
}

template <class T>
void write_all(const Tensor& image, const Letterbox& to, Stream stream, T* out) {
  const Scope scope("letterbox", stream);
  launch(letterbox_kernel<T>, blocks_for(to.height * to.width), kThreads, stream, resize_of(image, to), out);
}

}  // namespace

void letterbox(const Tensor& image, const Letterbox& to, Stream stream, std::uint8_t* out) {
  write_all(image, to, stream, out);
}
void letterbox(const Tensor& image, const Letterbox& to, Stream stream, float* out) {
  write_all(image, to, stream, out);
}

}  // namespace visdeploy::cuda
