#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "ops/multibox_detection.h"

namespace visdeploy::cpu {

#include "ops/multibox_detection_kernel.h"

}  // namespace visdeploy::cpu
