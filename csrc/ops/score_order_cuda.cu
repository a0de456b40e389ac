#include <cstring>
#include <type_traits>

#include "core/cuda.cuh"
#include "core/device_sort.cuh"
#include "ops/least_above.h"
#include "ops/score_order.cuh"

namespace visdeploy::cuda {
namespace {

#define VD_INLINE __device__ inline
#include "ops/score_key.h"

// Sorts after every score.
template <class Key>
constexpr Key kLeftOut = static_cast<Key>(-1);

// One thread per score; neighbours read neighbours.
template <class Key, class T>
__global__ void key_kernel(const T* scores, std::int64_t n, bool limited, T least, Key* keys, std::uint32_t* places) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) {
    keys[i] = limited && !(scores[i] >= least) ? kLeftOut<Key> : key_of<Key>(scores[i]);
    places[i] = static_cast<std::uint32_t>(i);
  }
}

// One thread per key and one for the end; the first that is left out writes.
template <class Key>
__global__ void bounds_kernel(const Key* sorted, std::int64_t n, std::int64_t* bounds) {
  for (std::int64_t i = grid_index(); i <= n; i += grid_step()) {
    const bool before = i == 0 || sorted[i - 1] != kLeftOut<Key>;
    if (before && (i == n || sorted[i] == kLeftOut<Key>)) bounds[0] = 0, bounds[1] = i;
  }
}

}  // namespace

template <class T>
void score_order(const T* scores, std::int64_t n, std::optional<double> threshold, Stream stream, std::uint32_t* order,
                 std::int64_t* bounds) {
  using Key = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
  const Memory<Key> keys(stream, n), sorted(stream, n);
  const Memory<std::uint32_t> places(stream, n);
  const T least = threshold ? least_above<T>(*threshold) : T{0};
  launch(key_kernel<Key, T>, blocks_for(n), kThreads, stream, scores, n, threshold.has_value(), least, keys.data(),
         places.data());
  sort_pairs(keys.data(), places.data(), n, 8 * sizeof(Key), stream, sorted.data(), order);
  launch(bounds_kernel<Key>, blocks_for(n + 1), kThreads, stream, sorted.data(), n, bounds);
}

template void score_order(const float*, std::int64_t, std::optional<double>, Stream, std::uint32_t*, std::int64_t*);
template void score_order(const double*, std::int64_t, std::optional<double>, Stream, std::uint32_t*, std::int64_t*);

}  // namespace visdeploy::cuda
