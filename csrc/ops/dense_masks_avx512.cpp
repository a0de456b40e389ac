#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/isa.h"
#include "ops/count_text.h"
#include "ops/rle.h"
#include "ops/semantic_map.h"

VD_TARGET_BEGIN(VD_AVX512)
namespace visdeploy::avx512 {
#include "ops/bits_avx512.h"
#include "ops/dense_masks.h"
}  // namespace visdeploy::avx512
VD_TARGET_END
#endif
