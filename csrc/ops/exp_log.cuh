#pragma once

#include <cstdint>
#include <cstring>

// exp and log on a device, from the CPU's source.
namespace visdeploy::cuda {
namespace {

#define VD_INLINE __device__ static inline
namespace for_numbers {
#include "ops/exp_log.h"
}
#undef VD_INLINE
using for_numbers::log;

// A NaN may have any bits on a GPU, of which the shared one could make a number.
__device__ inline double exp(double x) { return x == x ? for_numbers::exp(x) : x; }

}  // namespace
}  // namespace visdeploy::cuda
