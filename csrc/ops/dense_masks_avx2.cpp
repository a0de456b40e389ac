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

VD_TARGET_BEGIN(VD_AVX2)
namespace visdeploy::avx2 {
#include "ops/bits_avx2.h"
#include "ops/bits_portable.h"
#include "ops/dense_masks.h"
}  // namespace visdeploy::avx2
VD_TARGET_END
#endif
