#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace visdeploy {

// Indices of the scores from best to worst: NaN first, then descending, equal scores (and both zeros) in their order.
// With a threshold those that are not above it are left out, NaN too. At most 2^32 - 1 scores.
std::vector<std::uint32_t> score_order(const float* scores, std::int64_t n, std::optional<double> threshold);
std::vector<std::uint32_t> score_order(const double* scores, std::int64_t n, std::optional<double> threshold);

}  // namespace visdeploy
