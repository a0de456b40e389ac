#include "core/cuda.cuh"
#include "core/device_scan.cuh"
#include "core/device_sort.cuh"
#include "ops/nms.h"
#include "ops/nms_cuda.cuh"
#include "ops/overlap.cuh"
#include "ops/score_order.cuh"

namespace visdeploy::cuda {
namespace {

// One thread per coordinate, so that neighbours write neighbours and four read one box.
template <class T>
__global__ void gather_kernel(const T* boxes, const std::uint32_t* places, std::int64_t n, T* rows) {
  for (std::int64_t i = grid_index(); i < 4 * n; i += grid_step()) {
    rows[i] = boxes[4 * std::int64_t{places[i / 4]} + i % 4];
  }
}

// One thread per rank and one for the count; neighbours read neighbours.
__global__ void write_kernel(const std::uint32_t* kept, const std::int64_t* sums, const std::uint32_t* order,
                             std::int64_t n, std::int64_t most, IndicesOut out) {
  const std::int64_t room = min(out.capacity, most);
  for (std::int64_t rank = grid_index(); rank <= n; rank += grid_step()) {
    if (rank == n) {
      *out.count = min(sums[n], most);
    } else if (kept[rank] && sums[rank] < room) {
      out.indices[sums[rank]] = order[rank];
    }
  }
}

std::int64_t most(const NmsOptions& options) { return options.max_output.value_or(INT64_MAX); }

// Gives the places in `order` of the ranks that are kept.
void write(const std::uint32_t* kept, const std::uint32_t* order, std::int64_t n, const NmsOptions& options,
           Stream stream, const IndicesOut& out) {
  const Memory<std::int64_t> sums(stream, n + 1);
  exclusive_sum(kept, n, stream, sums.data());
  launch(write_kernel, blocks_for(n + 1), kThreads, stream, kept, sums.data(), order, n, most(options), out);
}

template <class T>
void nms_of(const T* boxes, const T* scores, std::int64_t n, const NmsOptions& options, Stream stream,
            const IndicesOut& out) {
  const Memory<std::uint32_t> order(stream, n), kept(stream, n);
  const Memory<std::int64_t> bounds(stream, 2);
  const Memory<T> rows(stream, 4 * n);
  score_order(scores, n, options.score_threshold, stream, order.data(), bounds.data());
  launch(gather_kernel<T>, blocks_for(4 * n), kThreads, stream, boxes, order.data(), n, rows.data());
  suppress_segments(rows.data(), bounds.data(), 1, n, n, options.iou_threshold, Drop::kAbove, most(options), stream,
                    kept.data());
  write(kept.data(), order.data(), n, options, stream, out);
}

// One thread per rank; the labels are read where the score has put them. Ranks that are left out come last.
__global__ void label_kernel(const std::int64_t* labels, const std::uint32_t* order, const std::int64_t* bounds,
                             std::int64_t n, std::uint64_t* keys, std::uint32_t* ranks) {
  constexpr std::uint64_t kSign = std::uint64_t{1} << 63;
  for (std::int64_t rank = grid_index(); rank < n; rank += grid_step()) {
    // Equal keys stay in order of rank, so it does no harm that the last label has this key too.
    keys[rank] = rank < bounds[1] ? static_cast<std::uint64_t>(labels[order[rank]]) ^ kSign : UINT64_MAX;
    ranks[rank] = static_cast<std::uint32_t>(rank);
  }
}

// One thread per row; neighbours read neighbours, but for the order.
__global__ void head_kernel(const std::uint64_t* keys, const std::uint32_t* ranks, const std::uint32_t* order,
                            const std::int64_t* bounds, std::int64_t n, std::uint32_t* is_head, std::uint32_t* places) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) {
    is_head[i] = i < bounds[1] && (i == 0 || keys[i] != keys[i - 1]);
    places[i] = order[ranks[i]];
  }
}

// One thread per row and one for the end. Segments that do not exist are empty.
__global__ void start_kernel(const std::uint32_t* is_head, const std::int64_t* numbers, const std::int64_t* bounds,
                             std::int64_t n, std::int64_t* starts) {
  for (std::int64_t i = grid_index(); i <= n; i += grid_step()) {
    if (i < n && is_head[i]) starts[numbers[i]] = i;
    if (i >= numbers[n]) starts[i] = bounds[1];
  }
}

// One thread per row; neighbours read neighbours.
__global__ void rank_kernel(const std::uint32_t* kept, const std::uint32_t* ranks, std::int64_t n,
                            std::uint32_t* kept_by_rank) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) kept_by_rank[ranks[i]] = kept[i];
}

template <class T>
void batched_nms_of(const T* boxes, const T* scores, const std::int64_t* labels, std::int64_t n,
                    const NmsOptions& options, Stream stream, const IndicesOut& out) {
  const Memory<std::uint32_t> order(stream, n), kept_by_rank(stream, n);
  const Memory<std::int64_t> bounds(stream, 2);
  score_order(scores, n, options.score_threshold, stream, order.data(), bounds.data());
  {
    const Memory<std::uint64_t> keys(stream, n), sorted(stream, n);
    const Memory<std::uint32_t> unsorted(stream, n), ranks(stream, n), is_head(stream, n), places(stream, n);
    const Memory<std::int64_t> numbers(stream, n + 1), starts(stream, n + 1);
    launch(label_kernel, blocks_for(n), kThreads, stream, labels, order.data(), bounds.data(), n, keys.data(),
           unsorted.data());
    sort_pairs(keys.data(), unsorted.data(), n, 64, stream, sorted.data(), ranks.data());
    launch(head_kernel, blocks_for(n), kThreads, stream, sorted.data(), ranks.data(), order.data(), bounds.data(), n,
           is_head.data(), places.data());
    exclusive_sum(is_head.data(), n, stream, numbers.data());
    launch(start_kernel, blocks_for(n + 1), kThreads, stream, is_head.data(), numbers.data(), bounds.data(), n,
           starts.data());
    const Memory<T> rows(stream, 4 * n);
    const Memory<std::uint32_t> kept(stream, n);
    launch(gather_kernel<T>, blocks_for(4 * n), kThreads, stream, boxes, places.data(), n, rows.data());
    suppress_segments(rows.data(), starts.data(), n, n, n, options.iou_threshold, Drop::kAbove, most(options), stream,
                      kept.data());
    launch(rank_kernel, blocks_for(n), kThreads, stream, kept.data(), ranks.data(), n, kept_by_rank.data());
  }
  write(kept_by_rank.data(), order.data(), n, options, stream, out);
}

// The larger, or NaN where there is one.
template <class T>
__device__ T larger(T a, T b) {
  return b <= a || a != a ? a : b;
}

// One block, for few boxes: it reads them twice, the second time from a cache. As shift_by_label on the CPU.
template <class T>
__global__ void shift_kernel(const T* boxes, const std::int64_t* labels, std::int64_t n, T* shifted) {
  __shared__ T greatest[kThreads];
  T own = boxes[0];
  for (std::int64_t i = threadIdx.x; i < 4 * n; i += kThreads) own = larger(own, boxes[i]);
  greatest[threadIdx.x] = own;
  for (unsigned apart = kThreads / 2; apart > 0; apart /= 2) {
    __syncthreads();
    if (threadIdx.x < apart) {
      greatest[threadIdx.x] = larger(greatest[threadIdx.x], greatest[threadIdx.x + apart]);
    }
  }
  __syncthreads();
  const T step = greatest[0] + T{1};
  for (std::int64_t i = threadIdx.x; i < 4 * n; i += kThreads) {
    shifted[i] = boxes[i] + product(static_cast<T>(labels[i / 4]), step);
  }
}

// Calls op with the boxes and scores as contiguous memory of their type.
template <class Op>
void with_type(const Tensor& boxes, const Tensor& scores, Stream stream, const Op& op) {
  const auto call = [&](auto zero) {
    using T = decltype(zero);
    op(Contiguous<T>(boxes, stream).data(), Contiguous<T>(scores, stream).data());
  };
  boxes.dtype == DType::kFloat32 ? call(0.0f) : call(0.0);
}

}  // namespace

void nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& options, Stream stream, const IndicesOut& out) {
  const Scope scope("nms", stream);
  with_type(boxes, scores, stream,
            [&](const auto* b, const auto* s) { nms_of(b, s, boxes.shape[0], options, stream, out); });
}

void batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels, const NmsOptions& options,
                 Stream stream, const IndicesOut& out) {
  const Scope scope("batched_nms", stream);
  const Contiguous<std::int64_t> ids(labels, stream);
  with_type(boxes, scores, stream, [&](const auto* b, const auto* s) {
    batched_nms_of(b, s, ids.data(), boxes.shape[0], options, stream, out);
  });
}

void shifted_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels, const NmsOptions& options,
                 Stream stream, const IndicesOut& out) {
  const Scope scope("batched_nms", stream);
  const Contiguous<std::int64_t> ids(labels, stream);
  with_type(boxes, scores, stream, [&](const auto* b, const auto* s) {
    const std::int64_t n = boxes.shape[0];
    const Memory<std::decay_t<decltype(*b)>> shifted(stream, 4 * n);
    launch(shift_kernel<std::decay_t<decltype(*b)>>, n > 0, kThreads, stream, b, ids.data(), n, shifted.data());
    nms_of(shifted.data(), s, n, options, stream, out);
  });
}

}  // namespace visdeploy::cuda
