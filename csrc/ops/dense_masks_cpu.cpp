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

#include "ops/count_text.h"
#include "ops/rle.h"
#include "ops/semantic_map.h"

namespace visdeploy::cpu {
#include "ops/bits_cpu.h"
#include "ops/bits_portable.h"
#include "ops/dense_masks.h"
}  // namespace visdeploy::cpu
