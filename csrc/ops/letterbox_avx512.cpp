#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "core/isa.h"
#include "ops/letterbox.h"

VD_TARGET_BEGIN(VD_AVX512)
namespace visdeploy::avx512 {

#include "ops/letterbox_taps.h"
// After it.
#include "ops/letterbox_kernel.h"

}  // namespace visdeploy::avx512
VD_TARGET_END

#endif
