#include "core/cuda.cuh"
#include "ops/letterbox.h"

namespace visdeploy::cuda {
namespace {

#define VD_INLINE __device__ inline
#include "ops/letterbox_taps.h"

// An image (H, W, 3) of any strides, and what becomes of it.
struct Resize {
  const std::uint8_t* image;
  std::int64_t strides[3];
  std::int64_t height, width;
  Letterbox to;
};

// Writes the pixel at a row and a column of the result.
template <class T>
__device__ inline void write_pixel(const Resize& resize, std::int64_t row, std::int64_t column, T* out) {
  if (row >= resize.to.valid_height || column >= resize.to.valid_width) {
    for (int c = 0; c < 3; ++c) out[c] = static_cast<T>(resize.to.pad_value);
    return;
  }
  const Taps rows = taps(resize.to.interpolation, row, resize.height, resize.to.valid_height);
  const Taps columns = taps(resize.to.interpolation, column, resize.width, resize.to.valid_width);
  std::uint64_t sums[3] = {};
  for (std::int64_t y = rows.first; y <= rows.last; ++y) {
    std::uint32_t row_sums[3] = {};
    for (std::int64_t x = columns.first; x <= columns.last; ++x) {
      const std::uint8_t* pixel = resize.image + y * resize.strides[0] + x * resize.strides[1];
      const std::uint32_t weight = weight_of(columns, x);
      for (int c = 0; c < 3; ++c) row_sums[c] += weight * pixel[c * resize.strides[2]];
    }
    for (int c = 0; c < 3; ++c) sums[c] += std::uint64_t{weight_of(rows, y)} * row_sums[c];
  }
  const std::uint64_t total = std::uint64_t{rows.total} * columns.total;
  for (int c = 0; c < 3; ++c) out[c] = static_cast<T>((sums[c] + total / 2) / total);
}

Resize resize_of(const Tensor& image, const Letterbox& to) {
  return {image.at<std::uint8_t>(0),
          {image.strides[0], image.strides[1], image.strides[2]},
          image.shape[0],
          image.shape[1],
          to};
}

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
