#include "ops/letterbox.h"

namespace visdeploy::cpu {
namespace {

#include "ops/letterbox_pixel.h"

// Not a fast one: preprocess.py has OpenCV for NumPy arrays. It says what the kernel must answer.
template <class T>
void write_all(const Tensor& image, const Letterbox& to, T* out) {
  const Resize resize = resize_of(image, to);
  for (std::int64_t row = 0; row < to.height; ++row) {
    for (std::int64_t column = 0; column < to.width; ++column, out += 3) write_pixel(resize, row, column, out);
  }
}

}  // namespace

void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out) { write_all(image, to, out); }
void letterbox(const Tensor& image, const Letterbox& to, float* out) { write_all(image, to, out); }

}  // namespace visdeploy::cpu
