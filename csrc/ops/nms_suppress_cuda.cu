#include "core/cuda.cuh"
#include "ops/least_above.h"
#include "ops/nms_cuda.cuh"
#include "ops/overlap.cuh"

namespace visdeploy::cuda {
namespace {

// Note [Suppression on a device]
// A box is kept if no better box that is kept drops it. A block takes its candidates 64 at a time: all warps test them
// against the boxes kept so far, and among each other, which gives a matrix of bits; then one warp decides them, so
// that the block waits three times for 64 candidates and not once for each. In the matrix a candidate is kept as soon
// as all better ones that would drop it are known to be dropped, and all of which that is true are decided at once: the
// rounds are as many as the longest chain of boxes of which each drops the next, two or three where boxes are of any
// use.
//
// A block for each segment is fast enough where segments are short. Longer ones are taken in rounds: first the whole
// device drops candidates of a round by what earlier rounds kept, then a block decides the rest as above. How many
// rounds there are follows from the greatest length that is possible, so nobody waits for the device; only segments
// that are longer than one round are looked at after it, and of those there cannot be many. Memory is that of the boxes
// once more.

constexpr int kTile = 64, kLanes = 32, kHalves = kTile / kLanes;
constexpr int kSuppressThreads = 512, kWarps = kSuppressThreads / kLanes;
constexpr std::uint32_t kAllLanes = 0xffffffff;

constexpr std::int64_t kLongestAtOnce = 4096;
constexpr std::int64_t kRound = 1024;  // of a longer one: what one block decides alone should not take it too long
constexpr std::int64_t kParts = 16;    // of the kept list, for so many blocks, when the whole device drops
constexpr std::int64_t kMostBlocks = 4096;

constexpr std::uint32_t kDropped = 2;  // in kept[], from one kernel of a round to the next

// The IoU from which on a box drops another.
template <class T>
struct Limit {
  T least;
  bool nan_drops;
};

template <class T>
__device__ bool drops(const Box<T>& better, const Box<T>& box, const Limit<T>& limit) {
  const T inter = intersection(better, box), joined = better.area() + box.area() - inter;
  // Most do not meet, and need no division.
  const T iou = inter == 0 && (joined < 0 || joined > 0) ? T{0} : inter / joined;
  return iou >= limit.least || (limit.nan_drops && iou != iou);
}

// For a warp with a candidate in each lane: adds to `dropped` those that a kept box drops, of the boxes `first`,
// `first + step` and so on. Warps with the same candidates share `dropped`, and stop when all are.
template <class T>
__device__ void test(const Box<T>& candidate, const Box<T>* kept_boxes, std::int64_t count, std::int64_t first,
                     std::int64_t step, const Limit<T>& limit, std::uint32_t* dropped) {
  constexpr int kUnrolled = 4;
  const bool speaks = threadIdx.x % kLanes == 0;
  std::uint32_t gone = 0;
  for (std::int64_t k = first; k < count && gone != kAllLanes; k += kUnrolled * step) {
    bool hit = false;
    for (int i = 0; i < kUnrolled; ++i) {
      const std::int64_t at = k + i * step;
      hit |= drops(kept_boxes[at < count ? at : k], candidate, limit);
    }
    const std::uint32_t hits = __ballot_sync(kAllLanes, hit);
    gone = __shfl_sync(kAllLanes, speaks ? atomicOr(dropped, hits) | hits : 0, 0);
  }
}

__device__ std::uint64_t join(std::uint32_t low, std::uint32_t high) { return std::uint64_t{high} << 32 | low; }

// For one warp: of the candidates that are left those to keep, where conflicts[i] has the better ones that drop i.
__device__ std::uint64_t decide(std::uint64_t left, const std::uint32_t (*conflicts)[kHalves]) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const std::uint64_t low = join(conflicts[lane][0], conflicts[lane][1]);
  const std::uint64_t high = join(conflicts[lane + kLanes][0], conflicts[lane + kLanes][1]);
  const auto where = [](bool is_low, bool is_high) {
    const std::uint32_t bits = __ballot_sync(kAllLanes, is_low);
    return join(bits, __ballot_sync(kAllLanes, is_high));
  };
  std::uint64_t keeps = 0;
  while (left) {
    keeps |= left & where(!(low & (left | keeps)), !(high & (left | keeps)));
    left &= ~(keeps | where(low & keeps, high & keeps));
  }
  return keeps;
}

// Some segments, all or those in a list.
struct Segments {
  const std::int64_t* starts;
  const std::uint32_t* list;  // or null
  const std::uint32_t* listed;
  std::int64_t all;

  __device__ std::int64_t count() const { return list ? *listed : all; }
  __device__ std::int64_t operator[](std::int64_t i) const { return list ? list[i] : i; }
};

// The candidates of a round: `length` rows from `first` on in each segment.
struct Round {
  std::int64_t first, length;
};

template <class T>
struct Kept {
  Box<T>* boxes;          // of segment s from starts[s] on
  std::uint32_t* counts;  // of each segment
  std::uint32_t* flags;
};

// One block per segment; see the Note. The boxes that are kept lie side by side, so that a warp reads one for 32
// candidates, from the L1 cache where a block has them.
template <class T>
__global__ void __launch_bounds__(kSuppressThreads) suppress_kernel(const Box<T>* boxes, Segments segments, Round round,
                                                                    Limit<T> limit, std::int64_t most, Kept<T> kept) {
  __shared__ Box<T> tile[kTile];
  __shared__ std::uint32_t dropped[kHalves], conflicts[kTile][kHalves], total;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kLanes, lane = thread % kLanes;
  for (std::int64_t place = blockIdx.x; place < segments.count(); place += gridDim.x) {
    const std::int64_t s = segments[place], start = segments.starts[s];
    std::int64_t row = start + round.first;
    const std::int64_t end = min(segments.starts[s + 1], row + round.length);
    Box<T>* const kept_boxes = kept.boxes + start;
    std::int64_t count = round.first == 0 ? 0 : kept.counts[s];
    for (; row < end && count < most; row += kTile) {
      if (thread < kTile) {
        const bool absent = row + thread >= end || kept.flags[row + thread] == kDropped;
        tile[thread] = absent ? Box<T>{} : boxes[row + thread];
        const std::uint32_t bits = __ballot_sync(kAllLanes, absent);
        if (lane == 0) dropped[warp] = bits;
      }
      __syncthreads();
      const int half = warp % kHalves;
      test(tile[half * kLanes + lane], kept_boxes, count, warp / kHalves, kWarps / kHalves, limit, &dropped[half]);
      for (int i = warp; i < kTile; i += kWarps) {
        for (int h = 0; h < kHalves; ++h) {
          const int better = h * kLanes + lane;
          const std::uint32_t bits = __ballot_sync(kAllLanes, better < i && drops(tile[better], tile[i], limit));
          if (lane == 0) conflicts[i][h] = bits;
        }
      }
      __syncthreads();
      if (warp == 0) {
        std::uint64_t keeps = decide(~join(dropped[0], dropped[1]), conflicts);
        while (count + __popcll(keeps) > most) keeps &= ~(std::uint64_t{1} << (63 - __clzll(keeps)));
        for (int i = lane; i < kTile && row + i < end; i += kLanes) {
          const bool is_kept = keeps >> i & 1;
          kept.flags[row + i] = is_kept;
          if (is_kept) kept_boxes[count + __popcll(keeps << (63 - i)) - 1] = tile[i];
        }
        if (lane == 0) kept.counts[s] = total = static_cast<std::uint32_t>(count + __popcll(keeps));
      }
      __syncthreads();
      count = total;
    }
    for (row += thread; row < end; row += kSuppressThreads) kept.flags[row] = 0;
  }
}

// One block per 64 candidates of a round and part of its kept list: enough blocks for the whole device. Warps read as
// above.
template <class T>
__global__ void __launch_bounds__(kSuppressThreads)
    drop_kernel(const Box<T>* boxes, Segments segments, Round round, Limit<T> limit, std::int64_t most, Kept<T> kept) {
  __shared__ std::uint32_t dropped[kHalves];
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kLanes, lane = thread % kLanes;
  const int half = warp % kHalves;
  const std::int64_t tiles = round.length / kTile, tasks = segments.count() * tiles * kParts;
  for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
    const std::int64_t part = task % kParts, tile = task / kParts % tiles, s = segments[task / kParts / tiles];
    const std::int64_t start = segments.starts[s], end = segments.starts[s + 1];
    const std::int64_t row = start + round.first + tile * kTile, own = row + half * kLanes + lane;
    if (row >= end || kept.counts[s] >= most) continue;
    if (thread < kHalves) dropped[thread] = 0;
    __syncthreads();
    test(own < end ? boxes[own] : Box<T>{}, kept.boxes + start, kept.counts[s], part + kParts * (warp / kHalves),
         kParts * (kWarps / kHalves), limit, &dropped[half]);
    __syncthreads();
    if (warp < kHalves && own < end && dropped[half] >> lane & 1) kept.flags[own] = kDropped;
    __syncthreads();
  }
}

// One thread per segment: lists those that are longer than one round.
__global__ void list_kernel(const std::int64_t* starts, std::int64_t segments, std::uint32_t* list,
                            std::uint32_t* listed) {
  for (std::int64_t s = grid_index(); s < segments; s += grid_step()) {
    if (starts[s + 1] - starts[s] > kRound) list[atomicAdd(listed, 1)] = static_cast<std::uint32_t>(s);
  }
}

}  // namespace

template <class T>
void suppress_segments(const T* boxes, const std::int64_t* starts, std::int64_t segments, std::int64_t longest,
                       std::int64_t n, double threshold, Drop rule, std::int64_t most, Stream stream,
                       std::uint32_t* kept) {
  if (n == 0) return;
  VD_CUDA(cudaMemsetAsync(kept, 0, static_cast<std::size_t>(n) * sizeof(*kept), handle(stream)));
  if (segments == 0 || most == 0) return;
  const auto* rows = reinterpret_cast<const Box<T>*>(boxes);
  const bool is_book = rule == Drop::kNotAtMost;
  const Limit<T> limit{least_above<T>(is_book ? static_cast<T>(threshold) : threshold), is_book};
  const Memory<Box<T>> kept_boxes(stream, n);
  const Memory<std::uint32_t> counts(stream, segments);
  const Kept<T> result{kept_boxes.data(), counts.data(), kept};
  const Segments all{starts, nullptr, nullptr, segments};
  const auto suppress = [&](const Segments& some, std::int64_t at_most, const Round& round) {
    launch(suppress_kernel<T>, std::min(at_most, kMostBlocks), kSuppressThreads, stream, rows, some, round, limit, most,
           result);
  };
  if (longest <= kLongestAtOnce) return suppress(all, segments, {0, kLongestAtOnce});

  const std::int64_t most_listed = std::min(segments, n / kRound);
  const Memory<std::uint32_t> list(stream, most_listed), listed(stream, 1);
  VD_CUDA(cudaMemsetAsync(listed.data(), 0, sizeof(std::uint32_t), handle(stream)));
  launch(list_kernel, blocks_for(segments), kThreads, stream, starts, segments, list.data(), listed.data());
  const Segments others{starts, list.data(), listed.data(), most_listed};
  suppress(all, segments, {0, kRound});
  for (std::int64_t first = kRound; first < longest; first += kRound) {
    const Round round{first, kRound};
    launch(drop_kernel<T>, std::min(most_listed * kParts * (kRound / kTile), kMostBlocks), kSuppressThreads, stream,
           rows, others, round, limit, most, result);
    suppress(others, most_listed, round);
  }
}

template void suppress_segments(const float*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, double,
                                Drop, std::int64_t, Stream, std::uint32_t*);
template void suppress_segments(const double*, const std::int64_t*, std::int64_t, std::int64_t, std::int64_t, double,
                                Drop, std::int64_t, Stream, std::uint32_t*);

}  // namespace visdeploy::cuda
