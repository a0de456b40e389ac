#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"

// Masks that lie interleaved in memory, the first pixel of each before the second of any, as in a C-order (H, W, N).
namespace visdeploy {

// How many are laid out at a time: each takes part of the same lines of cache, so one at a time would read those again
// and again.
constexpr std::int64_t kInterleaved = 32;

// Is this the layout of the masks that `items_axis` counts, and are they enough for deinterleave to pay?
bool interleaved(const Tensor& masks, int items_axis);

// The masks from `first` on, at most kInterleaved, each in memory of its own.
struct Deinterleaved {
  std::unique_ptr<std::uint8_t[]> memory;
  std::vector<Tensor> masks;
};
Deinterleaved deinterleave(const Tensor& masks, int items_axis, std::int64_t first);

}  // namespace visdeploy
