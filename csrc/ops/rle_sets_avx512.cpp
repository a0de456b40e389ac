#if defined(__x86_64__)

#include "core/isa.h"
#include "ops/rle_sets.h"

VD_TARGET_BEGIN(VD_AVX512)

namespace visdeploy::avx512 {
#include "ops/common_bits.h"
}  // namespace visdeploy::avx512

VD_TARGET_END

#endif
