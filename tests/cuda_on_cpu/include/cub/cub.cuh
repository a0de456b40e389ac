#pragma once

// The device-wide algorithms of CUB that the project calls, each as one CUDA thread that does the work with the
// standard library. As with CUB, the first call (temporary == nullptr) only says how many bytes of temporary memory the
// second needs.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

namespace cub {

template <class T>
struct DoubleBuffer {
  T* d_buffers[2] = {nullptr, nullptr};
  int selector = 0;
  DoubleBuffer() = default;
  DoubleBuffer(T* current, T* alternate) : d_buffers{current, alternate} {}
  T* Current() { return d_buffers[selector]; }
  T* Alternate() { return d_buffers[selector ^ 1]; }
};

namespace on_cpu {

template <class T>
using Value = std::decay_t<decltype(*std::declval<T>())>;
template <class T>
using Sum = decltype(std::declval<Value<T>>() + std::declval<Value<T>>());

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

// The bits [begin, end) of a key, in an order that ascends with it. -0 and 0 are one key.
template <class Key>
std::uint64_t digits(Key key, int begin, int end) {
  std::uint64_t bits = 0;
  if constexpr (std::is_floating_point_v<Key>) {
    if (key == 0) key = 0;
  }
  std::memcpy(&bits, &key, sizeof(key));
  const std::uint64_t sign = std::uint64_t{1} << (sizeof(Key) * 8 - 1);
  if (std::is_floating_point_v<Key> && (bits & sign)) {
    bits = ~bits & (sign | (sign - 1));
  } else if (std::is_floating_point_v<Key> || std::is_signed_v<Key>) {
    bits ^= sign;
  }
  const int width = end - begin;
  return bits >> begin & (width >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1);
}

struct NoValue {};

template <class Key, class Item>
void sort(bool descending, const Key* keys_in, Key* keys_out, const Item* in, Item* out, std::int64_t first,
          std::int64_t last, int begin, int end) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(last - first));
  std::iota(order.begin(), order.end(), first);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    const std::uint64_t of_a = digits(keys_in[a], begin, end), of_b = digits(keys_in[b], begin, end);
    return descending ? of_a > of_b : of_a < of_b;
  });
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t from = order[static_cast<std::size_t>(i - first)];
    keys_out[i] = keys_in[from];
    if constexpr (!std::is_same_v<Item, NoValue>) out[i] = in[from];
  }
}

template <class Key, class Item>
cudaError_t sort_all(bool descending, void* temporary, std::size_t& bytes, const Key* keys_in, Key* keys_out,
                     const Item* in, Item* out, std::int64_t n, int begin, int end, cudaStream_t stream) {
  if (begin < 0 || end > static_cast<int>(sizeof(Key) * 8) || begin > end) return cudaErrorInvalidValue;
  if (temporary && (overlap(keys_in, keys_out, n) || (in && overlap(in, out, n)))) return cudaErrorInvalidValue;
  return run(temporary, bytes, n, stream, [=] { sort(descending, keys_in, keys_out, in, out, 0, n, begin, end); });
}

template <class Key, class Item, class Begins, class Ends>
cudaError_t sort_segments(bool descending, void* temporary, std::size_t& bytes, const Key* keys_in, Key* keys_out,
                          const Item* in, Item* out, std::int64_t n, std::int64_t segments, Begins begins, Ends ends,
                          int begin, int end, cudaStream_t stream) {
  if (begin < 0 || end > static_cast<int>(sizeof(Key) * 8) || begin > end) return cudaErrorInvalidValue;
  if (temporary && (overlap(keys_in, keys_out, n) || (in && overlap(in, out, n)))) return cudaErrorInvalidValue;
  return run(temporary, bytes, n, stream, [=] {
    for (std::int64_t s = 0; s < segments; ++s) {
      if (begins[s] < ends[s]) sort(descending, keys_in, keys_out, in, out, begins[s], ends[s], begin, end);
    }
  });
}

}  // namespace on_cpu

struct DeviceRadixSort {
#define CUDA_ON_CPU_SORT(Suffix, descending)                                                                           \
  template <class Key, class Item, class Count>                                                                        \
  static cudaError_t SortPairs##Suffix(void* temporary, std::size_t& bytes, const Key* keys_in, Key* keys_out,         \
                                       const Item* in, Item* out, Count n, int begin = 0, int end = sizeof(Key) * 8,   \
                                       cudaStream_t stream = nullptr) {                                                \
    return on_cpu::sort_all(descending, temporary, bytes, keys_in, keys_out, in, out, n, begin, end, stream);          \
  }                                                                                                                    \
  template <class Key, class Item, class Count>                                                                        \
  static cudaError_t SortPairs##Suffix(void* temporary, std::size_t& bytes, DoubleBuffer<Key>& keys,                   \
                                       DoubleBuffer<Item>& items, Count n, int begin = 0, int end = sizeof(Key) * 8,   \
                                       cudaStream_t stream = nullptr) {                                                \
    const cudaError_t error =                                                                                          \
        on_cpu::sort_all(descending, temporary, bytes, static_cast<const Key*>(keys.Current()), keys.Alternate(),      \
                         static_cast<const Item*>(items.Current()), items.Alternate(), n, begin, end, stream);         \
    if (temporary) keys.selector ^= 1, items.selector ^= 1;                                                            \
    return error;                                                                                                      \
  }                                                                                                                    \
  template <class Key, class Count>                                                                                    \
  static cudaError_t SortKeys##Suffix(void* temporary, std::size_t& bytes, const Key* keys_in, Key* keys_out, Count n, \
                                      int begin = 0, int end = sizeof(Key) * 8, cudaStream_t stream = nullptr) {       \
    const on_cpu::NoValue* none = nullptr;                                                                             \
    return on_cpu::sort_all(descending, temporary, bytes, keys_in, keys_out, none,                                     \
                            static_cast<on_cpu::NoValue*>(nullptr), n, begin, end, stream);                            \
  }
  CUDA_ON_CPU_SORT(, false)
  CUDA_ON_CPU_SORT(Descending, true)
#undef CUDA_ON_CPU_SORT
};

struct DeviceSegmentedRadixSort {
#define CUDA_ON_CPU_SORT(Suffix, descending)                                                                          \
  template <class Key, class Item, class Begins, class Ends>                                                          \
  static cudaError_t SortPairs##Suffix(void* temporary, std::size_t& bytes, const Key* keys_in, Key* keys_out,        \
                                       const Item* in, Item* out, std::int64_t n, std::int64_t segments,              \
                                       Begins begins, Ends ends, int begin = 0, int end = sizeof(Key) * 8,            \
                                       cudaStream_t stream = nullptr) {                                               \
    return on_cpu::sort_segments(descending, temporary, bytes, keys_in, keys_out, in, out, n, segments, begins, ends, \
                                 begin, end, stream);                                                                 \
  }
  CUDA_ON_CPU_SORT(, false)
  CUDA_ON_CPU_SORT(Descending, true)
#undef CUDA_ON_CPU_SORT
};

// Sums are of the type that adding two inputs has, whatever the output is: 32-bit inputs overflow as with CUB.
struct DeviceScan {
  template <class In, class Out, class Count>
  static cudaError_t ExclusiveSum(void* temporary, std::size_t& bytes, In in, Out out, Count n,
                                  cudaStream_t stream = nullptr) {
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      on_cpu::Sum<In> sum{};
      for (Count i = 0; i < n; ++i) {
        const auto value = in[i];  // before it is overwritten, if the scan is in place
        out[i] = static_cast<on_cpu::Value<Out>>(sum);
        sum += value;
      }
    });
  }
  template <class In, class Out, class Count>
  static cudaError_t InclusiveSum(void* temporary, std::size_t& bytes, In in, Out out, Count n,
                                  cudaStream_t stream = nullptr) {
    return InclusiveScanInit(temporary, bytes, in, out, std::plus<>(), on_cpu::Sum<In>{}, n, stream);
  }
  template <class In, class Out, class Operator, class Initial, class Count>
  static cudaError_t InclusiveScanInit(void* temporary, std::size_t& bytes, In in, Out out, Operator plus,
                                       Initial initial, Count n, cudaStream_t stream = nullptr) {
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      decltype(plus(initial, *in)) sum = initial;
      for (Count i = 0; i < n; ++i) {
        sum = plus(sum, in[i]);
        out[i] = static_cast<on_cpu::Value<Out>>(sum);
      }
    });
  }
};

struct DeviceSelect {
  template <class In, class Flags, class Out, class Selected, class Count>
  static cudaError_t Flagged(void* temporary, std::size_t& bytes, In in, Flags flags, Out out, Selected selected,
                             Count n, cudaStream_t stream = nullptr) {
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      Count kept = 0;
      for (Count i = 0; i < n; ++i) {
        if (flags[i]) out[kept++] = in[i];
      }
      *selected = static_cast<on_cpu::Value<Selected>>(kept);
    });
  }
};

struct DeviceReduce {
  template <class In, class Out, class Count>
  static cudaError_t Sum(void* temporary, std::size_t& bytes, In in, Out out, Count n, cudaStream_t stream = nullptr) {
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      on_cpu::Sum<In> sum{};
      for (Count i = 0; i < n; ++i) sum += in[i];
      *out = static_cast<on_cpu::Value<Out>>(sum);
    });
  }
  template <class In, class Out, class Count>
  static cudaError_t Max(void* temporary, std::size_t& bytes, In in, Out out, Count n, cudaStream_t stream = nullptr) {
    return on_cpu::run(temporary, bytes, n, stream, [=] {
      auto most = std::numeric_limits<on_cpu::Value<In>>::lowest();
      for (Count i = 0; i < n; ++i) most = in[i] > most ? in[i] : most;
      *out = most;
    });
  }
};

}  // namespace cub
