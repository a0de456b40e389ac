#include "ops/letterbox.h"

#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"

namespace visdeploy {
namespace {

// Sums of weighted samples stay exact: see Note [Whole numbers in floats].
constexpr std::int64_t kLongestSide = 1 << 20;

template <class T>
void letterbox_to(const Tensor& image, const Letterbox& to, T* out) {
  check_letterbox(image, to);
  if (const auto stream = device_of("letterbox", {{"image", &image}})) return cuda::letterbox(image, to, *stream, out);
  if (isa() == Isa::kAvx512) return avx512::letterbox(image, to, out);
  if (isa() == Isa::kAvx2) return avx2::letterbox(image, to, out);
  cpu::letterbox(image, to, out);
}

}  // namespace

void check_letterbox(const Tensor& image, const Letterbox& to) {
  const auto size = [](std::int64_t height, std::int64_t width) { return message("(", height, ", ", width, ")"); };
  const auto is_side = [](std::int64_t n) { return n >= 1 && n <= kLongestSide; };
  VD_CHECK(image.dtype == DType::kUint8, "[letterbox] image: expected uint8, got ", name(image.dtype));
  VD_CHECK(image.rank() == 3 && image.shape[2] == 3 && is_side(image.shape[0]) && is_side(image.shape[1]),
           "[letterbox] image: expected (H, W, 3) with sides from 1 to ", kLongestSide, ", got ", image.shape_text());
  VD_CHECK(is_side(to.valid_height) && is_side(to.valid_width), "[letterbox] valid: expected sides from 1 to ",
           kLongestSide, ", got ", size(to.valid_height, to.valid_width));
  VD_CHECK(to.height >= to.valid_height && to.height <= kLongestSide && to.width >= to.valid_width &&
               to.width <= kLongestSide,
           "[letterbox] size: expected at least ", size(to.valid_height, to.valid_width), " and sides up to ",
           kLongestSide, ", got ", size(to.height, to.width));
  VD_CHECK(to.interpolation != Interpolation::kArea ||
               (to.valid_height <= image.shape[0] && to.valid_width <= image.shape[1]),
           "[letterbox] interpolation: expected \"area\" only where no side grows, got ",
           size(image.shape[0], image.shape[1]), " to ", size(to.valid_height, to.valid_width));
  VD_CHECK(to.pad_value >= 0 && to.pad_value <= 255, "[letterbox] pad_value: expected 0 to 255, got ", to.pad_value);
}

void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out) { letterbox_to(image, to, out); }
void letterbox(const Tensor& image, const Letterbox& to, float* out) { letterbox_to(image, to, out); }

}  // namespace visdeploy
