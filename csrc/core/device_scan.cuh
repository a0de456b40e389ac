#pragma once

#include <cstdint>

#include "core/device.h"

namespace visdeploy::cuda {

// out[i] is the sum of the first i values, for i from 0 to n: out has room for n + 1.
void exclusive_sum(const std::uint32_t* values, std::int64_t n, Stream stream, std::int64_t* out);

}  // namespace visdeploy::cuda
