#pragma once

// The device-wide algorithms of CUB that the project calls, each as one CUDA thread that does the work with the
// standard library. As with CUB, the first call (temporary == nullptr) only says how many bytes of temporary memory the
// second needs.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace cub {

namespace on_cpu {

template <class Work>
void work_kernel(const Work* work) {
  (*work)();
}

// Ruins the temporary memory, so that nobody keeps anything there.
template <class Work>
cudaError_t run(void* temporary, std::size_t& bytes, std::int64_t n, cudaStream_t stream, const Work& work) {
  const std::size_t needed = 256 + static_cast<std::size_t>(n) * 4;
  if (!temporary) {
    bytes = needed;
    return cudaSuccess;
  }
  if (bytes < needed || n < 0) return cudaErrorInvalidValue;
  const auto all = [&] {
    std::memset(temporary, 0x5c, needed);
    work();
  };
  cudaLaunchConfig_t config{};
  config.stream = stream;
  return cudaLaunchKernelEx(&config, work_kernel<decltype(all)>, &all);
}

// Whether two arrays of n elements overlap, which CUB forbids and does not notice.
template <class A, class B>
bool overlap(const A* a, const B* b, std::int64_t n) {
  const auto a_at = reinterpret_cast<std::uintptr_t>(a), b_at = reinterpret_cast<std::uintptr_t>(b);
  const auto count = static_cast<std::uintptr_t>(n);
  return a_at < b_at + count * sizeof(B) && b_at < a_at + count * sizeof(A);
}

}  // namespace on_cpu

struct DeviceRadixSort {
  // Of unsigned keys.
  template <class Key, class Item>
  static cudaError_t SortPairs(void* temporary, std::size_t& bytes, const Key* keys_in, Key* keys_out, const Item* in,
                               Item* out, std::int64_t n, int begin, int end, cudaStream_t stream) {
    constexpr int kBits = sizeof(Key) * 8;
    if (begin < 0 || end > kBits || begin > end) return cudaErrorInvalidValue;
    if (temporary && (on_cpu::overlap(keys_in, keys_out, n) || on_cpu::overlap(in, out, n))) {
      return cudaErrorInvalidValue;
    }
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      const int width = end - begin;
      const Key mask = width == kBits ? ~Key{0} : (Key{1} << width) - 1;
      std::vector<std::int64_t> order(static_cast<std::size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return (keys_in[a] >> begin & mask) < (keys_in[b] >> begin & mask);
      });
      for (std::int64_t i = 0; i < n; ++i) {
        const std::int64_t from = order[static_cast<std::size_t>(i)];
        keys_out[i] = keys_in[from];
        out[i] = in[from];
      }
    });
  }
};

struct DeviceScan {
  template <class In, class Out, class Add, class Init>
  static cudaError_t InclusiveScanInit(void* temporary, std::size_t& bytes, In in, Out out, Add add, Init init,
                                       std::int64_t n, cudaStream_t stream) {
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      Init sum = init;
      for (std::int64_t i = 0; i < n; ++i) out[i] = sum = add(sum, in[i]);
    });
  }
};

}  // namespace cub
