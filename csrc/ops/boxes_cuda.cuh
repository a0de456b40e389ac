#pragma once

#include "core/cuda.cuh"
#include "ops/boxes.h"
#include "ops/exp_log.cuh"

// Decoding and encoding of a box by one thread, with the CPU's arithmetic from the CPU's source.
namespace visdeploy::cuda {
namespace {

#define VD_INLINE __device__ static inline
#include "ops/box_sides.h"
#undef VD_INLINE

struct Clip {
  float height, width;
};

// An array that a user brings need not be aligned to more than a float.
__device__ inline float4 load_box(const float* row) { return make_float4(row[0], row[1], row[2], row[3]); }

__device__ inline void store_box(float* row, float4 box) {
  row[0] = box.x;
  row[1] = box.y;
  row[2] = box.z;
  row[3] = box.w;
}

template <class Work>
__device__ inline float4 both_sides(float4 a, float4 b, const float* scale) {
  float4 out;
  Work::side(a.x, a.z, b.x, b.z, scale[0], scale[2], &out.x, &out.z);
  Work::side(a.y, a.w, b.y, b.w, scale[1], scale[3], &out.y, &out.w);
  return out;
}

__device__ inline float4 decode_box(float4 offsets, float4 anchor, const BoxCoder& coder) {
  if (coder.rule == BoxRule::kWeights) return both_sides<Decode<true>>(offsets, anchor, coder.scale);
  return both_sides<Decode<false>>(offsets, anchor, coder.scale);
}

__device__ inline float4 encode_box(float4 box, float4 anchor, const BoxCoder& coder) {
  if (coder.rule == BoxRule::kWeights) return both_sides<Encode<true>>(box, anchor, coder.scale);
  return both_sides<Encode<false>>(box, anchor, coder.scale);
}

// NaN stays.
__device__ inline float clip(float value, float limit) {
  value = value < 0 ? 0 : value;
  return value > limit ? limit : value;
}

__device__ inline float4 clip_box(float4 box, Clip to) {
  return make_float4(clip(box.x, to.width), clip(box.y, to.height), clip(box.z, to.width), clip(box.w, to.height));
}

}  // namespace
}  // namespace visdeploy::cuda
