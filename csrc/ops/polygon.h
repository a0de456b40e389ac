#pragma once

#include <cstdint>

#include "ops/rle.h"

// Outlines as masks, drawn as pycocotools draws them, to the last pixel.
namespace visdeploy {

// The inside of a polygon of `points` corners (x, y, x, y, ...) in pixels; parts outside the image are cut off.
// Refuses coordinates that are not finite or beyond 4e8, and outlines too long to draw.
Rle from_polygon(const double* xy, std::int64_t points, std::int64_t height, std::int64_t width);

// The inside of a box (x, y, width, height): the polygon of its four corners.
Rle from_box(const double* xywh, std::int64_t height, std::int64_t width);

namespace cpu {
Rle from_polygon(const double* xy, std::int64_t points, std::int64_t height, std::int64_t width);
}

}  // namespace visdeploy
