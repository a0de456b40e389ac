#if defined(__x86_64__)

#include <cstdint>
#include <cstring>

#include "core/isa.h"
#include "ops/boxes.h"

VD_TARGET_BEGIN(VD_AVX2)
namespace visdeploy::avx2 {

#include "ops/exp_log.h"
// After it.
#include "ops/box_sides.h"
// After it.
#include "ops/boxes_kernel.h"

}  // namespace visdeploy::avx2
VD_TARGET_END

#endif
