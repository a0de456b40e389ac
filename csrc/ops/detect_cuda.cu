#include <algorithm>
#include <cmath>
#include <limits>

#include "core/device_scan.cuh"
#include "core/device_sort.cuh"
#include "ops/boxes_cuda.cuh"
#include "ops/detect.h"
#include "ops/nms_cuda.cuh"

namespace visdeploy::cuda {
namespace {

// Note [Detections on a device]
// The host must not wait to learn how many candidates there are, and memory for all that there could be, one for each
// logit, is many times that of the logits. But a class has at most top_k. So scores are first written where a class
// finds its own (0 where there is none), in as much memory as the logits take, and then one block per class picks the
// best top_k. From there on every class has K = min(N, top_k) places for candidates, of which most are empty.
//
// A candidate is a number that tells all: image, score and entry, which is anchor * classes + class, from the highest
// bits to the lowest, the score turned over. So no two are equal, sorting them brings the best of each image first,
// ties by (anchor, class), and the empty ones, all bits set, come last. `rank` is the place in that order. NMS wants
// another, by segment: a class of an image, or a whole image where torchvision moves the boxes of classes apart. Since
// sorting is stable, sorting the ranks by segment gives it, best first. NMS marks ranks, and the answer of an image is
// its first max_det that are marked.
//
// Images that exceed the bits of a candidate, or kMostCandidates places, go one lot after the other.

using Candidate = std::uint64_t;
constexpr Candidate kEmpty = ~Candidate{0};
constexpr std::uint32_t kNoSegment = ~0u;
constexpr std::int64_t kMostCandidates = 1 << 24;

// The bits of a score, which is at most 1, and one: never 0 and below 2^30.
constexpr int kScoreBits = 30;
constexpr std::uint32_t kScoreMask = (1u << kScoreBits) - 1;

__device__ inline std::uint32_t score_key(float score) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits + 1;
}

int bits_below(std::int64_t n) {
  int bits = 0;
  while (bits < 63 && (std::int64_t{1} << bits) < n) ++bits;
  return bits;
}

// The images of a lot.
struct Images {
  const float *offsets, *anchors;
  std::int64_t count, n, classes;
  int entry_bits;
  BoxCoder coder;
  Clip size;

  __device__ Candidate candidate(std::int64_t image, std::uint32_t score_key, std::int64_t entry) const {
    const auto high = static_cast<Candidate>(image) << kScoreBits | (kScoreMask - score_key);
    return high << entry_bits | static_cast<Candidate>(entry);
  }
  __device__ std::int64_t image(Candidate c) const { return static_cast<std::int64_t>(c >> entry_bits >> kScoreBits); }
  __device__ float score(Candidate c) const {
    const std::uint32_t bits = kScoreMask - (static_cast<std::uint32_t>(c >> entry_bits) & kScoreMask) - 1;
    float score;
    std::memcpy(&score, &bits, sizeof(score));
    return score;
  }
  __device__ std::int64_t entry(Candidate c) const {
    return static_cast<std::int64_t>(c & ((Candidate{1} << entry_bits) - 1));
  }
  __device__ std::int64_t label(Candidate c) const { return entry(c) % classes; }
  __device__ float4 box(Candidate c) const {
    const std::int64_t anchor = entry(c) / classes;
    const float4 offset = load_box(offsets + 4 * (image(c) * n + anchor));
    return clip_box(decode_box(offset, load_box(anchors + 4 * anchor), coder), size);
  }
};

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
__global__ void select_kernel(const std::uint32_t* scores, Images images, std::int64_t k, Candidate* candidates) {
  __shared__ std::uint32_t sums[kThreads / 32];
  const std::int64_t n = images.n, foreground = images.classes - 1;
  for (std::int64_t block = blockIdx.x; block < images.count * foreground; block += gridDim.x) {
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
        const std::int64_t entry = anchor * images.classes + block % foreground + 1;
        out[above + (before & 0xffff) + min(equal_before, cut.equal)] =
            images.candidate(block / foreground, key, entry);
      }
      above += total & 0xffff;
      equal += total >> 16;
    }
    for (std::int64_t i = above + min(equal, cut.equal) + threadIdx.x; i < k; i += kThreads) out[i] = kEmpty;
  }
}

// One thread per group, and one for the end of the last: where in the sorted keys it begins. What ends a group lies
// `shift` bits above its keys' lowest; unused keys are the largest there is.
template <class Key>
__global__ void starts_kernel(const Key* keys, std::int64_t n, std::int64_t groups, int shift, std::int64_t* starts) {
  for (std::int64_t group = grid_index(); group <= groups; group += grid_step()) {
    const Key first = group < groups ? static_cast<Key>(group) << shift : ~Key{0};
    std::int64_t low = 0, high = n;
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (keys[middle] < first) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    starts[group] = low;
  }
}

__global__ void numbers_kernel(std::int64_t n, std::uint32_t* out) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) out[i] = static_cast<std::uint32_t>(i);
}

__device__ inline bool is_moved(const std::int64_t* image_starts, std::int64_t image) {
  return image_starts[image + 1] - image_starts[image] <= kMostMoved;
}

// One thread per rank: the segment that it belongs to.
__global__ void segment_kernel(const Candidate* ranked, std::int64_t n, Images images, bool as_torchvision,
                               const std::int64_t* image_starts, std::uint32_t* segments) {
  for (std::int64_t rank = grid_index(); rank < n; rank += grid_step()) {
    const Candidate candidate = ranked[rank];
    if (candidate == kEmpty) {
      segments[rank] = kNoSegment;
      continue;
    }
    const std::int64_t image = images.image(candidate);
    const bool moved = as_torchvision && is_moved(image_starts, image);
    segments[rank] = static_cast<std::uint32_t>(image * images.classes + (moved ? 0 : images.label(candidate)));
  }
}

// One block per image: how far torchvision moves its boxes for each label, one more than the largest coordinate, which
// NaN is; 0 where it does not.
__global__ void shift_kernel(const Candidate* ranked, Images images, const std::int64_t* image_starts, float* shifts) {
  __shared__ float largest[kThreads];
  const auto larger = [](float a, float b) { return b <= a || a != a ? a : b; };
  for (std::int64_t image = blockIdx.x; image < images.count; image += gridDim.x) {
    float mine = -INFINITY;
    if (is_moved(image_starts, image)) {
      for (std::int64_t rank = image_starts[image] + threadIdx.x; rank < image_starts[image + 1]; rank += kThreads) {
        const float4 box = images.box(ranked[rank]);
        mine = larger(larger(larger(larger(mine, box.x), box.y), box.z), box.w);
      }
    }
    largest[threadIdx.x] = mine;
    for (unsigned half = kThreads / 2; half; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) largest[threadIdx.x] = larger(largest[threadIdx.x], largest[threadIdx.x + half]);
    }
    if (threadIdx.x == 0) shifts[image] = is_moved(image_starts, image) ? largest[0] + 1 : 0;
    __syncthreads();
  }
}

// One thread per row of the boxes that NMS sees, which lie by segment: those that passed the threshold are decoded, and
// no others. Reads rows of offsets here and there.
__global__ void rows_kernel(const Candidate* ranked, const std::uint32_t* ranks, Images images,
                            const std::int64_t* image_starts, const float* shifts, float4* boxes) {
  const std::int64_t n = image_starts[images.count];
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) {
    const Candidate candidate = ranked[ranks[i]];
    float4 box = images.box(candidate);
    if (shifts) {
      const float shift = static_cast<float>(images.label(candidate)) * shifts[images.image(candidate)];
      box = make_float4(box.x + shift, box.y + shift, box.z + shift, box.w + shift);
    }
    boxes[i] = box;
  }
}

// One thread per place: marks the ranks of the boxes that were kept.
__global__ void mark_kernel(const std::uint32_t* kept, const std::uint32_t* ranks, std::int64_t places,
                            const std::int64_t* image_starts, std::int64_t images, std::uint32_t* marks) {
  const std::int64_t n = image_starts[images];
  for (std::int64_t i = grid_index(); i < places; i += grid_step()) marks[ranks[i]] = i < n ? kept[i] : 0;
}

// One thread per rank, and then one per image. Writes neighbours where they are kept.
__global__ void answer_kernel(const Candidate* ranked, const std::uint32_t* marks, const std::int64_t* marks_before,
                              Images images, const std::int64_t* image_starts, std::int64_t max_det, DetectOut out) {
  const std::int64_t n = image_starts[images.count];
  for (std::int64_t rank = grid_index(); rank < n; rank += grid_step()) {
    if (!marks[rank]) continue;
    const Candidate candidate = ranked[rank];
    const std::int64_t image = images.image(candidate);
    const std::int64_t place = marks_before[rank] - marks_before[image_starts[image]];
    if (place >= max_det) continue;
    const std::int64_t at = image * max_det + place;
    store_box(out.boxes + 4 * at, images.box(candidate));
    out.scores[at] = images.score(candidate);
    out.labels[at] = images.label(candidate);
  }
  for (std::int64_t image = grid_index(); image < images.count; image += grid_step()) {
    const std::int64_t kept = marks_before[image_starts[image + 1]] - marks_before[image_starts[image]];
    out.counts[image] = min(kept, max_det);
  }
}

void detect_lot(const float* logits, const Images& images, const DetectOptions& options, Stream stream,
                const DetectOut& out) {
  const std::int64_t n = images.n, foreground = images.classes - 1, k = std::min(n, options.top_k);
  const std::int64_t places = images.count * foreground * k, segments = images.count * images.classes;
  const int image_shift = kScoreBits + images.entry_bits;

  const Memory<std::int64_t> image_starts(stream, images.count + 1);
  const Memory<Candidate> ranked(stream, places);
  const Memory<std::uint32_t> numbers(stream, places), ranks(stream, places), marks(stream, places);
  launch(numbers_kernel, blocks_for(places), kThreads, stream, places, numbers.data());
  {
    const Memory<Candidate> candidates(stream, places);
    {
      const Memory<std::uint32_t> scores(stream, images.count * foreground * n);
      VD_CUDA(cudaMemsetAsync(scores.data(), 0,
                              static_cast<std::size_t>(images.count * foreground * n) * sizeof(std::uint32_t),
                              handle(stream)));
      const auto floor = static_cast<float>(options.score_threshold);
      const double margin =
          floor > 0 ? 1e-3 - std::log(static_cast<double>(floor)) : std::numeric_limits<double>::infinity();
      const std::int64_t rows = images.count * n;
      launch(score_kernel, blocks_for(8 * rows), kThreads, stream, logits, rows, n, images.classes, floor, margin,
             scores.data());
      launch(select_kernel, blocks_for(images.count * foreground, 1), kThreads, stream, scores.data(), images, k,
             candidates.data());
    }
    sort_pairs(candidates.data(), numbers.data(), places, image_shift + bits_below(images.count), stream, ranked.data(),
               ranks.data());  // where candidates came from does not matter
  }
  launch(starts_kernel<Candidate>, blocks_for(images.count + 1), kThreads, stream, ranked.data(), places, images.count,
         image_shift, image_starts.data());

  const Memory<std::int64_t> segment_starts(stream, segments + 1);
  {
    const Memory<std::uint32_t> by_rank(stream, places), sorted(stream, places);
    launch(segment_kernel, blocks_for(places), kThreads, stream, ranked.data(), places, images, options.as_torchvision,
           image_starts.data(), by_rank.data());
    sort_pairs(by_rank.data(), numbers.data(), places, bits_below(segments + 1), stream, sorted.data(), ranks.data());
    launch(starts_kernel<std::uint32_t>, blocks_for(segments + 1), kThreads, stream, sorted.data(), places, segments, 0,
           segment_starts.data());
  }
  {
    const Memory<float> shifts(stream, options.as_torchvision ? images.count : 0);
    if (options.as_torchvision) {
      launch(shift_kernel, blocks_for(images.count, 1), kThreads, stream, ranked.data(), images, image_starts.data(),
             shifts.data());
    }
    const Memory<float4> boxes(stream, places);
    launch(rows_kernel, blocks_for(places), kThreads, stream, ranked.data(), ranks.data(), images, image_starts.data(),
           shifts.data(), boxes.data());
    const Memory<std::uint32_t> kept(stream, places);
    const std::int64_t moved = options.as_torchvision ? std::min(kMostMoved, foreground * k) : 0;
    suppress_segments(reinterpret_cast<const float*>(boxes.data()), segment_starts.data(), segments, std::max(k, moved),
                      places, options.iou_threshold, Drop::kAbove, options.max_det, stream, kept.data());
    launch(mark_kernel, blocks_for(places), kThreads, stream, kept.data(), ranks.data(), places, image_starts.data(),
           images.count, marks.data());
  }
  const Memory<std::int64_t> marks_before(stream, places + 1);
  exclusive_sum(marks.data(), places, stream, marks_before.data());
  launch(answer_kernel, blocks_for(std::max(places, images.count)), kThreads, stream, ranked.data(), marks.data(),
         marks_before.data(), images, image_starts.data(), options.max_det, out);
}

template <class T>
void clear(T* values, std::int64_t n, Stream stream) {
  if (n) VD_CUDA(cudaMemsetAsync(values, 0, static_cast<std::size_t>(n) * sizeof(T), handle(stream)));
}

}  // namespace

void detect(const Tensor& logits, const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder,
            const DetectOptions& options, Stream stream, const DetectOut& out) {
  const Scope scope("detect", stream);
  const std::int64_t batch = logits.shape[0], n = logits.shape[1], classes = logits.shape[2];
  clear(out.boxes, 4 * batch * options.max_det, stream);
  clear(out.scores, batch * options.max_det, stream);
  clear(out.labels, batch * options.max_det, stream);
  clear(out.counts, batch, stream);
  if (n == 0 || options.top_k == 0 || options.max_det == 0) return;

  const Contiguous<float> rows(logits, stream), deltas(offsets, stream), at(anchors, stream);
  const int entry_bits = bits_below(n * classes);
  const std::int64_t lot = std::clamp<std::int64_t>(kMostCandidates / ((classes - 1) * std::min(n, options.top_k)), 1,
                                                    std::int64_t{1} << (64 - kScoreBits - entry_bits));
  const Clip size{static_cast<float>(options.image_size.first), static_cast<float>(options.image_size.second)};
  for (std::int64_t first = 0; first < batch; first += lot) {
    const Images images{
        deltas.data() + 4 * first * n, at.data(), std::min(lot, batch - first), n, classes, entry_bits, coder, size};
    const std::int64_t place = first * options.max_det;
    detect_lot(rows.data() + first * n * classes, images, options, stream,
               {out.boxes + 4 * place, out.scores + place, out.labels + place, out.counts + first});
  }
}

}  // namespace visdeploy::cuda
