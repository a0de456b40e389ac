#include <algorithm>

#include "core/device_scan.cuh"
#include "core/device_sort.cuh"
#include "ops/boxes_cuda.cuh"
#include "ops/detect.h"
#include "ops/detect_candidates.cuh"
#include "ops/nms_cuda.cuh"

namespace visdeploy::cuda {
namespace {

// Note [Detections on a device]
// The host must not wait to learn how many candidates there are, and memory for all that there could be, one for each
// logit, is many times that of the logits. But a class has at most top_k. So scores are first written where a class
// finds its own (0 where there is none), in as much memory as the logits take, and then one block per class picks the
// best top_k. From there on every class has K = min(N, top_k) places for candidates, of which most are empty.
//
// `rank` is the place of a candidate when all are sorted. NMS wants another order, by segment: a class of an image, or
// a whole image where torchvision moves the boxes of classes apart. Since sorting is stable, sorting the ranks by
// segment gives it, best first. NMS marks ranks, and the answer of an image is its first max_det that are marked.
//
// Images that exceed the bits of a candidate, or kMostCandidates places, go one lot after the other.

constexpr std::uint32_t kNoSegment = ~0u;
constexpr std::int64_t kMostCandidates = 1 << 24;

int bits_below(std::int64_t n) {
  int bits = 0;
  while (bits < 63 && (std::int64_t{1} << bits) < n) ++bits;
  return bits;
}

// The images of a lot.
struct Images {
  const float *offsets, *anchors;
  std::int64_t count, n, classes;
  CandidateLayout layout;
  BoxCoder coder;
  Clip size;

  __device__ std::int64_t image(Candidate c) const { return layout.image(c); }
  __device__ std::int64_t label(Candidate c) const { return layout.entry(c) % classes; }
  __device__ float4 box(Candidate c) const {
    const std::int64_t anchor = layout.entry(c) / classes;
    const float4 offset = load_box(offsets + 4 * (image(c) * n + anchor));
    return clip_box(decode_box(offset, load_box(anchors + 4 * anchor), coder), size);
  }
};

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
    out.scores[at] = images.layout.score(candidate);
    out.labels[at] = images.label(candidate);
  }
  for (std::int64_t image = grid_index(); image < images.count; image += grid_step()) {
    const std::int64_t kept = marks_before[image_starts[image + 1]] - marks_before[image_starts[image]];
    out.counts[image] = min(kept, max_det);
  }
}

void detect_lot(const float* logits, const Images& images, const DetectOptions& options, Stream stream,
                const DetectOut& out) {
  const std::int64_t foreground = images.classes - 1, k = std::min(images.n, options.top_k);
  const std::int64_t places = images.count * foreground * k, segments = images.count * images.classes;
  const int image_shift = images.layout.image_shift();

  const Memory<std::int64_t> image_starts(stream, images.count + 1);
  const Memory<Candidate> ranked(stream, places);
  const Memory<std::uint32_t> numbers(stream, places), ranks(stream, places), marks(stream, places);
  launch(numbers_kernel, blocks_for(places), kThreads, stream, places, numbers.data());
  {
    const Memory<Candidate> candidates(stream, places);
    best_of_each_class(logits, images.count, images.n, images.classes, static_cast<float>(options.score_threshold), k,
                       images.layout, stream, candidates.data());
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
  const CandidateLayout layout{bits_below(n * classes)};
  const std::int64_t lot = std::clamp<std::int64_t>(kMostCandidates / ((classes - 1) * std::min(n, options.top_k)), 1,
                                                    std::int64_t{1} << (64 - layout.image_shift()));
  const Clip size{static_cast<float>(options.image_size.first), static_cast<float>(options.image_size.second)};
  for (std::int64_t first = 0; first < batch; first += lot) {
    const Images images{
        deltas.data() + 4 * first * n, at.data(), std::min(lot, batch - first), n, classes, layout, coder, size};
    const std::int64_t place = first * options.max_det;
    detect_lot(rows.data() + first * n * classes, images, options, stream,
               {out.boxes + 4 * place, out.scores + place, out.labels + place, out.counts + first});
  }
}

}  // namespace visdeploy::cuda
