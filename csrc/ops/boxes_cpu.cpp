#include <cstdint>
#include <cstring>

#include "ops/boxes.h"

namespace visdeploy::cpu {

#include "ops/exp_log.h"
// After it.
#include "ops/box_sides.h"
// After it.
#include "ops/boxes_kernel.h"

}  // namespace visdeploy::cpu
