#pragma once

#include <cstdint>

#include "core/device.h"

namespace visdeploy::cuda {

// Sorts n keys ascending by their lowest `bits` bits, equal ones keeping their order, and takes a value with each.
// In and out may not overlap.
void sort_pairs(const std::uint32_t* keys, const std::uint32_t* values, std::int64_t n, int bits, Stream stream,
                std::uint32_t* sorted_keys, std::uint32_t* sorted_values);
void sort_pairs(const std::uint64_t* keys, const std::uint32_t* values, std::int64_t n, int bits, Stream stream,
                std::uint64_t* sorted_keys, std::uint32_t* sorted_values);

}  // namespace visdeploy::cuda
