#include <cmath>
#include <limits>

#include "core/cuda.cuh"
#include "ops/detect_candidates.cuh"
#include "ops/exp_log.cuh"

namespace visdeploy::cuda {
namespace {

constexpr unsigned kWarp = 0xffffffff;

// Eight lanes per anchor, each with every eighth class: the eight parts in which the CPU sums. A warp reads four
// neighbouring rows, each in pieces of 32 bytes, and writes the few scores that are above the floor.
__global__ void score_kernel(const float* logits, std::int64_t rows, std::int64_t n, std::int64_t classes, float floor,
                             double margin, std::uint32_t* scores) {
  constexpr int kParts = 8, kRows = 32 / kParts;
  const int part = static_cast<int>(threadIdx.x) % kParts, row_of_warp = static_cast<int>(threadIdx.x) % 32 / kParts;
  for (std::int64_t first = grid_index() / 32 * kRows; first < rows; first += grid_step() / 32 * kRows) {
    const bool is_row = first + row_of_warp < rows;
    const std::int64_t row = is_row ? first + row_of_warp : rows - 1;
    const float* x = logits + row * classes;
    // NaN loses every comparison here, and makes the sum NaN, which lets nothing pass.
    float best = -INFINITY;
    for (std::int64_t c = part ? part : kParts; c < classes; c += kParts) best = x[c] > best ? x[c] : best;
    for (int step = kParts / 2; step; step /= 2) {
      const float other = __shfl_xor_sync(kWarp, best, step);
      best = other > best ? other : best;
    }
    // A probability is at most e to the class's distance from any other; this decides nearly every anchor.
    const bool passes = is_row && !(static_cast<double>(x[0]) - static_cast<double>(best) > margin);
    if (!__any_sync(kWarp, passes)) continue;

    const double most = static_cast<double>(x[0] > best ? x[0] : best);
    double total = 0;
    for (std::int64_t c = part; c < classes; c += kParts) total += exp(static_cast<double>(x[c]) - most);
    for (int step = kParts / 2; step; step /= 2) total += __shfl_xor_sync(kWarp, total, step);
    if (!passes) continue;
    for (std::int64_t c = part ? part : kParts; c < classes; c += kParts) {
      const double distance = static_cast<double>(x[c]) - most;
      if (-distance > margin) continue;
      const float score = static_cast<float>(exp(distance) / total);
      if (score > floor) scores[(row / n * (classes - 1) + c - 1) * n + row % n] = score_key(score);
    }
  }
}

// The sum of what the threads before this one of the block have, and, in `total`, of all. `counts` has a place for
// every warp.
__device__ inline std::uint32_t sum_before(std::uint32_t count, std::uint32_t* counts, std::uint32_t* total) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  std::uint32_t sum = count;
  for (int step = 1; step < 32; step *= 2) {
    const std::uint32_t before = __shfl_up_sync(kWarp, sum, step);
    sum += lane >= step ? before : 0;
  }
  if (lane == 31) counts[warp] = sum;
  __syncthreads();
  std::uint32_t before = 0, all = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    before += w < warp ? counts[w] : 0;
    all += counts[w];
  }
  __syncthreads();
  *total = all;
  return before + sum - count;
}

// The k best of n keys are those above `key`, and the first `equal` of those that are equal to it.
struct Cut {
  std::uint32_t key;
  std::int64_t equal;
};

// Finds the cut, eight bits after the other, by counting how many keys have each.
__device__ inline Cut find_cut(const std::uint32_t* keys, std::int64_t n, std::int64_t k) {
  constexpr int kDigit = 8, kDigits = 1 << kDigit;
  static_assert(kDigits == kThreads, "a thread for each digit");
  __shared__ std::uint32_t counts[kDigits];
  __shared__ std::uint32_t sums[kThreads / 32];
  __shared__ std::uint32_t digit, above;
  const std::uint32_t largest_first = kDigits - 1 - threadIdx.x;
  Cut cut{0, k};
  for (int shift = 32 - kDigit; shift >= 0; shift -= kDigit) {
    counts[threadIdx.x] = 0;
    __syncthreads();
    for (std::int64_t i = threadIdx.x; i < n; i += kThreads) {
      const std::uint32_t key = keys[i];
      // By halves, as a shift by all the bits is undefined.
      if (key && (key ^ cut.key) >> shift >> (kDigit - 1) >> 1 == 0)
        atomicAdd(&counts[key >> shift & (kDigits - 1)], 1u);
    }
    __syncthreads();
    std::uint32_t total = 0;
    const std::uint32_t mine = counts[largest_first], before = sum_before(mine, sums, &total);
    if (total <= cut.equal) return {max(cut.key, 1u), n};  // all of these are taken
    if (before < cut.equal && cut.equal <= std::int64_t{before} + mine) {
      digit = largest_first;
      above = before;
    }
    __syncthreads();
    cut = {cut.key | digit << shift, cut.equal - above};
  }
  return cut;
}

// One block per class of an image, over its scores in the order of anchors, which it reads one after the other; they
// stay in the cache between the passes. Fills the k places of the class.
__global__ void select_kernel(const std::uint32_t* scores, std::int64_t images, std::int64_t n, std::int64_t classes,
                              std::int64_t k, CandidateLayout layout, Candidate* candidates) {
  __shared__ std::uint32_t sums[kThreads / 32];
  const std::int64_t foreground = classes - 1;
  for (std::int64_t block = blockIdx.x; block < images * foreground; block += gridDim.x) {
    const std::uint32_t* keys = scores + block * n;
    Candidate* out = candidates + block * k;
    const Cut cut = find_cut(keys, n, k);
    std::int64_t above = 0, equal = 0;  // taken or not, up to here
    for (std::int64_t first = 0; first < n; first += kThreads) {
      const std::int64_t anchor = first + threadIdx.x;
      const std::uint32_t key = anchor < n ? keys[anchor] : 0;
      if (!__syncthreads_or(key >= cut.key)) continue;
      // Both counts in one, as a block has at most 2^8 of each.
      const std::uint32_t mine = (key > cut.key ? 1u : 0u) | (key == cut.key ? 1u << 16 : 0u);
      std::uint32_t total = 0;
      const std::uint32_t before = sum_before(mine, sums, &total);
      const std::int64_t equal_before = equal + (before >> 16);
      if (key > cut.key || (key == cut.key && equal_before < cut.equal)) {
        const std::int64_t entry = anchor * classes + block % foreground + 1;
        out[above + (before & 0xffff) + min(equal_before, cut.equal)] =
            layout.candidate(block / foreground, key, entry);
      }
      above += total & 0xffff;
      equal += total >> 16;
    }
    for (std::int64_t i = above + min(equal, cut.equal) + threadIdx.x; i < k; i += kThreads) out[i] = kEmpty;
  }
}

}  // namespace

void best_of_each_class(const float* logits, std::int64_t images, std::int64_t n, std::int64_t classes, float floor,
                        std::int64_t k, CandidateLayout layout, Stream stream, Candidate* candidates) {
  const std::int64_t rows = images * n, count = images * (classes - 1) * n;
  const Memory<std::uint32_t> scores(stream, count);
  VD_CUDA(cudaMemsetAsync(scores.data(), 0, static_cast<std::size_t>(count) * sizeof(std::uint32_t), handle(stream)));
  const double margin =
      floor > 0 ? 1e-3 - std::log(static_cast<double>(floor)) : std::numeric_limits<double>::infinity();
  launch(score_kernel, blocks_for(8 * rows), kThreads, stream, logits, rows, n, classes, floor, margin, scores.data());
  launch(select_kernel, blocks_for(images * (classes - 1), 1), kThreads, stream, scores.data(), images, n, classes, k,
         layout, candidates);
}

}  // namespace visdeploy::cuda
