#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "core/device.h"
#include "core/error.h"

// What every kernel file uses. Work is only ever put on the caller's stream; nothing here waits for it.
namespace visdeploy::cuda {

// Throws CudaError that names the call, or UnsupportedError where this machine cannot run the build at all.
void check(cudaError_t status, const char* call);
#define VD_CUDA(call) ::visdeploy::cuda::check((call), #call)

// What functions carry whose one source kernels share with the CPU.
#define VD_DEVICE __device__

// While it lives the stream's device is the current one: the default stream, for one, is that of the current device.
class OnDevice {
 public:
  explicit OnDevice(Stream stream);
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
  bool changed_ = false;  // to make a device current that nobody uses yet would set it up
};

// While it lives this thread may call what allocates although another captures a graph.
class Uncaptured {
 public:
  Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~Uncaptured() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  Uncaptured(const Uncaptured&) = delete;
  Uncaptured& operator=(const Uncaptured&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// While it lives errors name the op.
class OpName {
 public:
  explicit OpName(const char* op);
  ~OpName();
  OpName(const OpName&) = delete;
  OpName& operator=(const OpName&) = delete;

 private:
  const char* before_;
};

// Both, for an op. An error that another call left behind is reported here, before it could be taken for one of this
// op.
class Scope {
 public:
  Scope(const char* op, Stream stream);

 private:
  OpName name_;
  OnDevice on_device_;
};

inline cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

// n values for what follows on the stream. More than could ever be addressed is more than there is.
template <class T>
class Memory {
 public:
  Memory(Stream stream, std::int64_t n)
      : bytes_(stream, static_cast<std::size_t>(std::min<std::int64_t>(n, PTRDIFF_MAX / sizeof(T))) * sizeof(T)) {}

  T* data() const { return static_cast<T*>(bytes_.data()); }

 private:
  DeviceMemory bytes_;
};

// Enough blocks for a thread per element, or as many as loops over the grid need to fill any GPU.
constexpr int kThreads = 256;
inline std::int64_t blocks_for(std::int64_t elements, int threads = kThreads) {
  constexpr std::int64_t kMostBlocks = 1 << 16;
  return std::min((elements + threads - 1) / threads, kMostBlocks);
}

// Puts a kernel on the stream; none where there are no blocks.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, Stream stream, Arguments&&... arguments) {
  if (blocks == 0) return;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = handle(stream);
  VD_CUDA(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
}

// The element that a thread starts with in a loop over the grid, and its step.
__device__ inline std::int64_t grid_index() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline std::int64_t grid_step() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

// The values of a tensor in row-major order: its own memory where that is so already, else a copy on the stream.
template <class T>
class Contiguous {
 public:
  Contiguous(const Tensor& tensor, Stream stream);

  const T* data() const { return data_; }

 private:
  Memory<T> copy_;
  const T* data_;
};

// Writes the values of a strided tensor one after the other.
void pack(const Tensor& tensor, Stream stream, void* out);

template <class T>
Contiguous<T>::Contiguous(const Tensor& tensor, Stream stream)
    : copy_(stream, tensor.is_contiguous() ? 0 : tensor.size()),
      data_(tensor.is_contiguous() ? static_cast<const T*>(tensor.data) : copy_.data()) {
  if (!tensor.is_contiguous()) pack(tensor, stream, copy_.data());
}

}  // namespace visdeploy::cuda
