#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/detect_candidates.h"

namespace visdeploy::cpu {

constexpr std::size_t kRegister = 16;
#include "ops/exp_log.h"
// After it.
#include "ops/detect_kernel.h"

}  // namespace visdeploy::cpu
