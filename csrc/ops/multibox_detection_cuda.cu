#include <algorithm>

#include "core/device_scan.cuh"
#include "core/device_sort.cuh"
#include "ops/boxes_cuda.cuh"
#include "ops/multibox_detection.h"
#include "ops/nms_cuda.cuh"

namespace visdeploy::cuda {
namespace {

#define VD_INLINE __device__ static inline
#include "ops/score_key.h"
#undef VD_INLINE

// Images go one lot after the other where they have more anchors than this together.
constexpr std::int64_t kMostAnchors = 1 << 24;

constexpr std::int64_t kColumns = 6;

// What the book calls an anchor: its best class, counted without the background, and that one's probability.
struct Best {
  float conf;
  std::int32_t label;
};

// One thread per anchor, class after class, so that neighbours read neighbours. The first of equal classes is best, and
// NaN is better than any.
__global__ void best_kernel(const float* probs, std::int64_t images, std::int64_t classes, std::int64_t n, Best* best,
                            std::uint64_t* keys, std::uint32_t* numbers) {
  for (std::int64_t i = grid_index(); i < images * n; i += grid_step()) {
    const std::int64_t image = i / n;
    const float* column = probs + image * classes * n + i % n;
    Best mine{column[n], 0};
    for (std::int64_t c = 2; c < classes; ++c) {
      const float conf = column[c * n];
      if (!(conf <= mine.conf) && mine.conf == mine.conf) mine = {conf, static_cast<std::int32_t>(c - 1)};
    }
    best[i] = mine;
    keys[i] = static_cast<std::uint64_t>(image) << 32 | key_of<std::uint32_t>(mine.conf);
    numbers[i] = static_cast<std::uint32_t>(i);
  }
}

// One thread per box, best first in each image.
__global__ void boxes_kernel(const float* offsets, const float* anchors, const std::uint32_t* order,
                             std::int64_t images, std::int64_t n, BoxCoder coder, float4* boxes, std::int64_t* starts) {
  for (std::int64_t rank = grid_index(); rank < images * n; rank += grid_step()) {
    const std::int64_t i = order[rank];
    boxes[rank] = decode_box(load_box(offsets + 4 * i), load_box(anchors + 4 * (i % n)), coder);
  }
  for (std::int64_t image = grid_index(); image <= images; image += grid_step()) starts[image] = image * n;
}

// One thread per box: the same marks in the order of anchors.
__global__ void mark_kernel(const std::uint32_t* kept, const std::uint32_t* order, std::int64_t count,
                            std::uint32_t* is_kept) {
  for (std::int64_t rank = grid_index(); rank < count; rank += grid_step()) is_kept[order[rank]] = kept[rank];
}

// One thread per box, which writes a row: those kept by rank, and behind them the others by anchor.
__global__ void write_kernel(const Best* best, const float4* boxes, const std::uint32_t* order,
                             const std::uint32_t* kept, const std::int64_t* kept_by_rank,
                             const std::int64_t* kept_by_anchor, std::int64_t images, std::int64_t n,
                             float pos_threshold, float* out) {
  for (std::int64_t rank = grid_index(); rank < images * n; rank += grid_step()) {
    const std::int64_t i = order[rank], first = i / n * n;
    const std::int64_t before = kept_by_rank[first];  // in earlier images
    const std::int64_t dropped_before = i - first - (kept_by_anchor[i] - before);
    const std::int64_t place =
        kept[rank] ? kept_by_rank[rank] - before : kept_by_rank[first + n] - before + dropped_before;
    const Best mine = best[i];
    const bool below = mine.conf < pos_threshold;
    float* row = out + kColumns * (first + place);
    row[0] = below || !kept[rank] ? -1.0f : static_cast<float>(mine.label);
    row[1] = below ? 1 - mine.conf : mine.conf;
    store_box(row + 2, boxes[rank]);
  }
}

void detect_lot(const float* probs, const float* offsets, const float* anchors, std::int64_t images,
                std::int64_t classes, std::int64_t n, float nms_threshold, float pos_threshold, Stream stream,
                float* out) {
  static const BoxCoder coder = box_coder("multibox_detection", std::vector{0.1, 0.2}, std::nullopt);
  const std::int64_t count = images * n;
  const Memory<Best> best(stream, count);
  const Memory<std::uint32_t> order(stream, count);
  {
    const Memory<std::uint64_t> keys(stream, count), sorted(stream, count);
    const Memory<std::uint32_t> numbers(stream, count);
    launch(best_kernel, blocks_for(count), kThreads, stream, probs, images, classes, n, best.data(), keys.data(),
           numbers.data());
    int bits = 32;
    while ((images - 1) >> (bits - 32)) ++bits;
    sort_pairs(keys.data(), numbers.data(), count, bits, stream, sorted.data(), order.data());
  }
  const Memory<float4> boxes(stream, count);
  const Memory<std::int64_t> starts(stream, images + 1);
  launch(boxes_kernel, blocks_for(count), kThreads, stream, offsets, anchors, order.data(), images, n, coder,
         boxes.data(), starts.data());
  const Memory<std::uint32_t> kept(stream, count), is_kept(stream, count);
  suppress_segments(reinterpret_cast<const float*>(boxes.data()), starts.data(), images, n, count,
                    static_cast<double>(nms_threshold), Drop::kNotAtMost, n, stream, kept.data());
  launch(mark_kernel, blocks_for(count), kThreads, stream, kept.data(), order.data(), count, is_kept.data());
  const Memory<std::int64_t> kept_by_rank(stream, count + 1), kept_by_anchor(stream, count + 1);
  exclusive_sum(kept.data(), count, stream, kept_by_rank.data());
  exclusive_sum(is_kept.data(), count, stream, kept_by_anchor.data());
  launch(write_kernel, blocks_for(count), kThreads, stream, best.data(), boxes.data(), order.data(), kept.data(),
         kept_by_rank.data(), kept_by_anchor.data(), images, n, pos_threshold, out);
}

}  // namespace

void multibox_detection(const Tensor& cls_probs, const Tensor& offsets, const Tensor& anchors, float nms_threshold,
                        float pos_threshold, Stream stream, float* out) {
  const Scope scope("multibox_detection", stream);
  const std::int64_t batch = cls_probs.shape[0], classes = cls_probs.shape[1], n = cls_probs.shape[2];
  const Contiguous<float> probs(cls_probs, stream), rows(offsets, stream), at(anchors, stream);
  const std::int64_t lot = std::max<std::int64_t>(1, kMostAnchors / n);
  for (std::int64_t first = 0; first < batch; first += lot) {
    detect_lot(probs.data() + first * classes * n, rows.data() + 4 * first * n, at.data(), std::min(lot, batch - first),
               classes, n, nms_threshold, pos_threshold, stream, out + kColumns * first * n);
  }
}

}  // namespace visdeploy::cuda
