#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "core/isa.h"
#include "ops/letterbox.h"

VD_TARGET_BEGIN(VD_AVX2)
namespace visdeploy::avx2 {

#include "ops/letterbox_taps.h"
// After it.
#include "ops/letterbox_kernel.h"

}  // namespace visdeploy::avx2
VD_TARGET_END

#endif
