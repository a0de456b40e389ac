#include <algorithm>

#include "ops/boxes_cuda.cuh"
#include "ops/multibox_target.h"

namespace visdeploy::cuda {
namespace {

// An overlap as a number: the IoU in torch's order, where NaN is the largest, above the anchor turned over. So the
// largest is what comes first in the greedy order, but for ties between boxes. 0 is none at all.
using Overlap = std::uint64_t;

constexpr std::int64_t kLabelColumns = 5;
constexpr std::int32_t kNone = -1;

// IoUs, which are never below zero, keep their order as bits.
__device__ inline std::uint32_t iou_key(float iou) {
  if (iou != iou) return ~0u;
  iou += 0.0f;  // minus zero becomes zero
  std::uint32_t bits;
  std::memcpy(&bits, &iou, sizeof(bits));
  return bits;
}

__device__ inline Overlap overlap(float iou, std::int64_t anchor) {
  return static_cast<Overlap>(iou_key(iou)) << 32 | ~static_cast<std::uint32_t>(anchor);
}

__device__ inline std::int64_t anchor_of(Overlap overlap) {
  return static_cast<std::int64_t>(~static_cast<std::uint32_t>(overlap));
}

__device__ inline float iou_of(float4 anchor, float4 box) {
  const float area = (box.z - box.x) * (box.w - box.y), anchor_area = (anchor.z - anchor.x) * (anchor.w - anchor.y);
  const float w = (anchor.z < box.z ? anchor.z : box.z) - (anchor.x > box.x ? anchor.x : box.x);
  const float h = (anchor.w < box.w ? anchor.w : box.w) - (anchor.y > box.y ? anchor.y : box.y);
  const float inter = (w < 0 ? 0 : w) * (h < 0 ? 0 : h);
  return inter / (anchor_area + area - inter);
}

// Largest of a value per thread, for all threads of the block.
__device__ inline Overlap largest_of_block(Overlap mine) {
  __shared__ Overlap all[kThreads];
  all[threadIdx.x] = mine;
  for (unsigned half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) all[threadIdx.x] = max(all[threadIdx.x], all[threadIdx.x + half]);
  }
  __syncthreads();
  const Overlap largest = all[0];
  __syncthreads();
  return largest;
}

// The first of m numbers that something holds for, or m, for all threads of the block.
template <class Holds>
__device__ inline std::int64_t first_of_block(std::int64_t m, const Holds& holds) {
  __shared__ unsigned long long first;
  if (threadIdx.x == 0) first = static_cast<unsigned long long>(m);
  __syncthreads();
  for (std::int64_t j = threadIdx.x; j < m; j += kThreads) {
    if (holds(j)) atomicMin(&first, static_cast<unsigned long long>(j));
  }
  __syncthreads();
  const auto found = static_cast<std::int64_t>(first);
  __syncthreads();
  return found;
}

// The largest overlap of a box with anchors that no box has taken.
__device__ inline Overlap largest_overlap(const float* anchors, std::int64_t n, float4 box, const std::int32_t* taken) {
  Overlap mine = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) {
    if (taken[i] == kNone) mine = max(mine, overlap(iou_of(load_box(anchors + 4 * i), box), i));
  }
  return largest_of_block(mine);
}

struct Labels {
  const float* rows;
  std::int64_t images, m;
  bool skip_padding;

  __device__ const float* row(std::int64_t image, std::int64_t j) const {
    return rows + (image * m + j) * kLabelColumns;
  }
  __device__ bool takes_part(std::int64_t image, std::int64_t j) const {
    return !skip_padding || row(image, j)[0] >= 0;
  }
  __device__ float4 box(std::int64_t image, std::int64_t j) const { return load_box(row(image, j) + 1); }
};

__global__ void clear_kernel(std::int64_t n, std::int32_t* taken) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) taken[i] = kNone;
}

// One block per box, over the anchors.
__global__ void overlap_kernel(const float* anchors, std::int64_t n, Labels labels, const std::int32_t* taken,
                               Overlap* best) {
  for (std::int64_t box = blockIdx.x; box < labels.images * labels.m; box += gridDim.x) {
    const std::int64_t image = box / labels.m, j = box % labels.m;
    const bool takes_part = labels.takes_part(image, j);
    const Overlap largest = takes_part ? largest_overlap(anchors, n, labels.box(image, j), taken + image * n) : 0;
    if (threadIdx.x == 0) best[box] = largest;
  }
}

// One block per image. Boxes take anchors one after the other; those whose best anchor has gone look again, over all
// anchors, which stay in the cache.
__global__ void take_kernel(const float* anchors, std::int64_t n, Labels labels, Overlap* best, std::int32_t* taken) {
  const std::int64_t m = labels.m;
  for (std::int64_t image = blockIdx.x; image < labels.images; image += gridDim.x) {
    Overlap* mine = best + image * m;
    std::int32_t* of_anchor = taken + image * n;
    for (std::int64_t round = 0; round < m; ++round) {
      Overlap most = 0;
      for (std::int64_t j = threadIdx.x; j < m; j += kThreads) most = max(most, mine[j]);
      most = largest_of_block(most);
      if (most == 0) {
        // Every box has an anchor, or none is left. There the book goes on, and gives the first anchor the first box.
        if (!labels.skip_padding && threadIdx.x == 0) of_anchor[0] = 0;
        break;
      }
      const std::int64_t winner = first_of_block(m, [&](std::int64_t j) { return mine[j] == most; });
      const std::int64_t anchor = anchor_of(most);
      if (threadIdx.x == 0) {
        of_anchor[anchor] = static_cast<std::int32_t>(winner);
        mine[winner] = 0;
      }
      __syncthreads();
      const auto is_stale = [&](std::int64_t j) { return mine[j] != 0 && anchor_of(mine[j]) == anchor; };
      for (std::int64_t j; (j = first_of_block(m, is_stale)) < m;) {
        const Overlap again = largest_overlap(anchors, n, labels.box(image, j), of_anchor);
        if (threadIdx.x == 0) mine[j] = again;
        __syncthreads();
      }
    }
    __syncthreads();
  }
}

// 0 is background.
__device__ inline std::int64_t target_class(float label) {
  return (label < 0 ? -label : label) < 1e18f ? static_cast<std::int64_t>(label) + 1 : 0;
}

// One thread per anchor: the box that took it, else the one that it overlaps most, of which all threads read the same.
__global__ void target_kernel(const float* anchors, std::int64_t n, Labels labels, BoxCoder coder,
                              const std::int32_t* taken, MultiboxTarget out) {
  for (std::int64_t i = grid_index(); i < labels.images * n; i += grid_step()) {
    const std::int64_t image = i / n;
    const float4 anchor = load_box(anchors + 4 * (i % n));
    std::int64_t assigned = taken[i];
    if (assigned == kNone) {
      float most = -1;
      for (std::int64_t j = 0; j < labels.m; ++j) {
        if (!labels.takes_part(image, j)) continue;
        const float iou = iou_of(anchor, labels.box(image, j));
        if (iou <= most || most != most) continue;
        most = iou;
        assigned = j;
      }
      if (!(most >= 0.5f)) assigned = kNone;
    }
    const bool positive = assigned != kNone;
    const float on = positive ? 1 : 0;
    store_box(out.offsets + 4 * i, positive ? encode_box(labels.box(image, assigned), anchor, coder) : float4{});
    store_box(out.mask + 4 * i, make_float4(on, on, on, on));
    out.labels[i] = positive ? target_class(labels.row(image, assigned)[0]) : 0;
  }
}

}  // namespace

void multibox_target(const Tensor& anchors, const Tensor& labels, bool skip_padding, Stream stream,
                     const MultiboxTarget& out) {
  static const BoxCoder coder = box_coder("multibox_target", std::vector{0.1, 0.2}, std::nullopt);
  const Scope scope("multibox_target", stream);
  const std::int64_t n = anchors.size() / 4, images = labels.shape[0], m = labels.shape[1];
  const Contiguous<float> at(anchors, stream), rows(labels, stream);
  const Labels boxes{rows.data(), images, m, skip_padding};
  const Memory<std::int32_t> taken(stream, images * n);
  const Memory<Overlap> best(stream, images * m);
  launch(clear_kernel, blocks_for(images * n), kThreads, stream, images * n, taken.data());
  launch(overlap_kernel, blocks_for(images * m, 1), kThreads, stream, at.data(), n, boxes, taken.data(), best.data());
  launch(take_kernel, blocks_for(m ? images : 0, 1), kThreads, stream, at.data(), n, boxes, best.data(), taken.data());
  launch(target_kernel, blocks_for(images * n), kThreads, stream, at.data(), n, boxes, coder, taken.data(), out);
}

}  // namespace visdeploy::cuda
