#pragma once

#include "core/tensor.h"

// Images to the size that a network takes, on the CPU or where they lie on a device.
namespace visdeploy {

// As OpenCV has them: the pixel to the upper left, the four around with half-pixel centres and clamped edges, the mean
// of the area that becomes a pixel.
enum class Interpolation { kNearest, kBilinear, kArea };

struct Letterbox {
  std::int64_t valid_height, valid_width;  // what the image is resized to
  std::int64_t height, width;              // what that is padded to, right and bottom
  Interpolation interpolation;
  std::int64_t pad_value;
};

// An image (H, W, 3) uint8 of any strides to one of the size that is asked for, in whole numbers, uint8 or float32.
void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out);
void letterbox(const Tensor& image, const Letterbox& to, float* out);

// What it refuses, before anything is allocated for it.
void check_letterbox(const Tensor& image, const Letterbox& to);

// Implementations. Results are the same to the last bit.
namespace cpu {
void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out);
void letterbox(const Tensor& image, const Letterbox& to, float* out);
}  // namespace cpu
namespace avx2 {
void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out);
void letterbox(const Tensor& image, const Letterbox& to, float* out);
}  // namespace avx2
namespace avx512 {
void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out);
void letterbox(const Tensor& image, const Letterbox& to, float* out);
}  // namespace avx512
namespace cuda {
void letterbox(const Tensor& image, const Letterbox& to, Stream stream, std::uint8_t* out);
void letterbox(const Tensor& image, const Letterbox& to, Stream stream, float* out);
}  // namespace cuda

}  // namespace visdeploy
