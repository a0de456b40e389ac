#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "ops/letterbox.h"

namespace visdeploy::cpu {

#include "ops/letterbox_taps.h"
// After it.
#include "ops/letterbox_kernel.h"

}  // namespace visdeploy::cpu
