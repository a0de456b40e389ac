#pragma once

// An op on random input, on the CPU and by its CUDA kernels over the shim, for builds under sanitizers. Every array of
// the device is an allocation of its own, of exactly its size, so that ASan sees the first byte past it.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "shim.h"

namespace run {

constexpr int kSizes[] = {1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025};

inline std::mt19937 random_bits(5);
inline std::string now;  // what runs, for messages
inline int failures = 0;

inline int integer(int below) { return static_cast<int>(random_bits() % static_cast<unsigned>(below)); }
inline float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(random_bits); }

inline void must(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", now.c_str(), cudaGetErrorName(error));
  std::exit(1);
}

inline visdeploy::Stream stream() {
  static cudaStream_t made = nullptr;
  if (!made) must(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking));
  return {0, made};
}

// An array on the device.
template <class T>
class Device {
 public:
  explicit Device(std::size_t n) : n_(n), data_(nullptr) {
    if (n > 0) must(cudaMalloc(&data_, n * sizeof(T)));
  }
  explicit Device(const std::vector<T>& values) : Device(values.size()) {
    if (n_ > 0) must(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data_); }

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> copy(n_);
    if (n_ > 0) must(cudaMemcpy(copy.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return copy;
  }

 private:
  std::size_t n_;
  T* data_;
};

template <class T>
visdeploy::DType dtype();
template <>
inline visdeploy::DType dtype<float>() {
  return visdeploy::DType::kFloat32;
}
template <>
inline visdeploy::DType dtype<double>() {
  return visdeploy::DType::kFloat64;
}
template <>
inline visdeploy::DType dtype<std::int64_t>() {
  return visdeploy::DType::kInt64;
}
template <>
inline visdeploy::DType dtype<std::uint8_t>() {
  return visdeploy::DType::kUint8;
}

// A contiguous tensor over memory that somebody else holds.
template <class T>
visdeploy::Tensor view(const T* data, std::vector<std::int64_t> shape, bool on_device) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = sizeof(T);
  for (std::size_t i = shape.size(); i-- > 0; stride *= shape[i]) strides[i] = stride;
  visdeploy::Tensor tensor{data, std::move(shape), std::move(strides), dtype<T>()};
  if (on_device) tensor.cuda = stream();
  return tensor;
}
template <class T>
visdeploy::Tensor view(const std::vector<T>& values, std::vector<std::int64_t> shape) {
  return view(values.data(), std::move(shape), false);
}
template <class T>
visdeploy::Tensor view(const Device<T>& array, std::vector<std::int64_t> shape) {
  return view(array.data(), std::move(shape), true);
}

// n values from make().
template <class T, class Make>
std::vector<T> random(std::int64_t n, const Make& make) {
  std::vector<T> values(static_cast<std::size_t>(n));
  for (T& value : values) value = static_cast<T>(make());
  return values;
}

// Boxes that overlap often, a few of them reversed, empty or not a number.
template <class T>
std::vector<T> random_boxes(std::int64_t n) {
  std::vector<T> rows;
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = real(0, 40), y = real(0, 40);
    for (const float value : {x, y, x + real(-1, 20), y + real(0, 20)}) rows.push_back(static_cast<T>(value));
    if (integer(50) == 0) rows[rows.size() - 2] = static_cast<T>(NAN);
  }
  return rows;
}

// Bit for bit, NaNs included.
template <class T>
void expect_equal(const char* what, const std::vector<T>& cuda, const std::vector<T>& cpu) {
  const bool equal =
      cuda.size() == cpu.size() && (cpu.empty() || std::memcmp(cuda.data(), cpu.data(), cpu.size() * sizeof(T)) == 0);
  if (equal) return;
  ++failures;
  std::fprintf(stderr, "%s: %s of CUDA and CPU differ, %zu and %zu values\n", now.c_str(), what, cuda.size(),
               cpu.size());
}

// Runs each(size) for all sizes under some orders of threads, and looks for what was not freed. TSan is slow: unless
// time does not matter it gets the sizes around warps and small blocks.
inline int over_sizes(const char* op, const std::function<void(int)>& each) {
#ifdef __SANITIZE_THREAD__
  int largest = 129, seeds = 1;
#else
  int largest = 1025, seeds = 3;
#endif
  if (std::getenv("VISDEPLOY_SOAK")) largest = 1025, seeds = 20;
  shim_protect_device_memory(1);
  each(1);  // takes what ops keep between calls, such as pinned memory
  for (const int size : kSizes) {
    for (int seed = 1; seed <= seeds && size <= largest; ++seed) {
      shim_set_seed(static_cast<std::uint64_t>(seed));
      now = std::string(op) + " of size " + std::to_string(size) + " with seed " + std::to_string(seed);
      const std::int64_t live = shim_live_allocations();
      each(size);
      if (shim_live_allocations() == live) continue;
      std::fprintf(stderr, "%s: device memory was not freed\n", now.c_str());
      ++failures;
    }
  }
  std::printf("%s: %s\n", op, failures ? "FAILED" : "equal");
  return failures != 0;
}

}  // namespace run
