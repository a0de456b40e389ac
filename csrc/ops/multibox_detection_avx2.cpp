#if defined(__x86_64__)

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/isa.h"
#include "ops/multibox_detection.h"

VD_TARGET_BEGIN(VD_AVX2)
namespace visdeploy::avx2 {

#include "ops/multibox_detection_kernel.h"

}  // namespace visdeploy::avx2
VD_TARGET_END

#endif
