#include <cub/cub.cuh>

#include "core/cuda.cuh"
#include "core/device_sort.cuh"

// A file of its own: nvcc takes longer for it than for all others.
namespace visdeploy::cuda {
namespace {

template <class Key>
void sort(const Key* keys, const std::uint32_t* values, std::int64_t n, int bits, Stream stream, Key* sorted_keys,
          std::uint32_t* sorted_values) {
  if (n == 0) return;
  std::size_t bytes = 0;
  const auto pass = [&](void* workspace) {
    return cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values, n, 0, bits,
                                           handle(stream));
  };
  check(pass(nullptr), "cub::DeviceRadixSort::SortPairs");
  const DeviceMemory workspace(stream, bytes);
  check(pass(workspace.data()), "cub::DeviceRadixSort::SortPairs");
}

}  // namespace

void sort_pairs(const std::uint32_t* keys, const std::uint32_t* values, std::int64_t n, int bits, Stream stream,
                std::uint32_t* sorted_keys, std::uint32_t* sorted_values) {
  sort(keys, values, n, bits, stream, sorted_keys, sorted_values);
}

void sort_pairs(const std::uint64_t* keys, const std::uint32_t* values, std::int64_t n, int bits, Stream stream,
                std::uint64_t* sorted_keys, std::uint32_t* sorted_values) {
  sort(keys, values, n, bits, stream, sorted_keys, sorted_values);
}

}  // namespace visdeploy::cuda
