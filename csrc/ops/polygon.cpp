#include "ops/polygon.h"

#include <array>

#include "core/error.h"

namespace visdeploy {

Rle from_polygon(const double* xy, std::int64_t points, std::int64_t height, std::int64_t width) {
  constexpr std::int64_t kMaxSide = (std::int64_t{1} << 31) - 1;
  // What pycocotools keeps in 32 bits, five times enlarged; it has no answer for more.
  constexpr double kMaxCoordinate = 429496729.0;
  VD_CHECK(height >= 0 && width >= 0 && height <= kMaxSide && width <= kMaxSide && height * width <= kMaxPixels,
           "[frPyObjects] h, w: expected at most ", kMaxPixels, " pixels and no side below zero, got ", height, " x ",
           width);
  for (std::int64_t i = 0; i < 2 * points; ++i) {
    VD_CHECK(xy[i] >= -kMaxCoordinate && xy[i] <= kMaxCoordinate, "[frPyObjects] coordinate ", i,
             ": expected a finite number within 429496729 of zero, got ", xy[i]);
  }
  return cpu::from_polygon(xy, points, height, width);
}

Rle from_box(const double* xywh, std::int64_t height, std::int64_t width) {
  const double left = xywh[0], top = xywh[1], right = left + xywh[2], bottom = top + xywh[3];
  const std::array<double, 8> corners{left, top, left, bottom, right, bottom, right, top};
  return from_polygon(corners.data(), 4, height, width);
}

}  // namespace visdeploy
