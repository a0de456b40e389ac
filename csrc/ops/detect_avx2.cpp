#if defined(__x86_64__)

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/isa.h"
#include "ops/detect_candidates.h"

VD_TARGET_BEGIN(VD_AVX2)
namespace visdeploy::avx2 {

constexpr std::size_t kRegister = 32;
#include "ops/exp_log.h"
// After it.
#include "ops/detect_kernel.h"

}  // namespace visdeploy::avx2
VD_TARGET_END

#endif
