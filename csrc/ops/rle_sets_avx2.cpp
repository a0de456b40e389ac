#if defined(__x86_64__)

#include "core/isa.h"
#include "ops/rle_sets.h"

VD_TARGET_BEGIN(VD_AVX2)

namespace visdeploy::avx2 {
#include "ops/common_bits.h"
}  // namespace visdeploy::avx2

VD_TARGET_END

#endif
