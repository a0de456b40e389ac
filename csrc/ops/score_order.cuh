#pragma once

#include <cstdint>
#include <optional>

#include "core/device.h"

namespace visdeploy::cuda {

// What the CPU's score_order gives, for float or double on a device: the places of all n scores from best to worst, of
// which the first bounds[1] are those that are not left out; bounds[0] is zero.
template <class T>
void score_order(const T* scores, std::int64_t n, std::optional<double> threshold, Stream stream, std::uint32_t* order,
                 std::int64_t* bounds);

}  // namespace visdeploy::cuda
