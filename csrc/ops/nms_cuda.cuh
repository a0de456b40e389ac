#pragma once

#include <cstdint>

#include "core/device.h"

// Greedy suppression on a device, for every op that has boxes sorted there.
namespace visdeploy::cuda {

// Which boxes drop: kAbove is torchvision's rule, IoU > threshold, where NaN stays; kNotAtMost is the d2l book's,
// unless float IoU <= float threshold, where NaN drops.
enum class Drop { kAbove, kNotAtMost };

// Rows of boxes (n, 4), aligned to 16 bytes, sorted into segments and best first in each: segment s is rows
// [starts[s], starts[s + 1]), where starts, (segments + 1,), lies on the device, and has no more than `longest` of
// them. kept, (n,), becomes 1 or 0, which it is outside of the segments and after the first `most` of a segment.
template <class T>
void suppress_segments(const T* boxes, const std::int64_t* starts, std::int64_t segments, std::int64_t longest,
                       std::int64_t n, double threshold, Drop rule, std::int64_t most, Stream stream,
                       std::uint32_t* kept);

}  // namespace visdeploy::cuda
