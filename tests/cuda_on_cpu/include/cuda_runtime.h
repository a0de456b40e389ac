#pragma once

// Lets unmodified .cu files compile with g++ and run on the CPU: `g++ -x c++ -ffp-contract=off -I include x.cu`.
#include <cmath>
#include <cstring>
#include <tuple>
#include <utility>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

#include "device_functions.h"

namespace cuda_on_cpu {

// Runs `invoke(arguments)` once per CUDA thread, or refuses the configuration as CUDA would.
__attribute__((visibility("default"))) cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel,
                                                          void (*invoke)(void*), void* arguments);

template <class... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;
  static void invoke(void* call) {
    const Call& self = *static_cast<const Call*>(call);
    std::apply(self.kernel, self.arguments);  // every thread gets its own copies
  }
};

}  // namespace cuda_on_cpu

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  // A lambda converts each argument as a call of the kernel would.
  return [&](Parameters... converted) {
    cuda_on_cpu::Call<Parameters...> call{kernel, {converted...}};
    return cuda_on_cpu::launch(*config, reinterpret_cast<const void*>(kernel), &call.invoke, &call);
  }(std::forward<Arguments>(arguments)...);
}

template <class T>
cudaError_t cudaMalloc(T** pointer, std::size_t size) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), size);
}
template <class T>
cudaError_t cudaMallocAsync(T** pointer, std::size_t size, cudaStream_t stream) {
  return cudaMallocAsync(reinterpret_cast<void**>(pointer), size, stream);
}
template <class T>
cudaError_t cudaMallocFromPoolAsync(T** pointer, std::size_t size, cudaMemPool_t pool, cudaStream_t stream) {
  return cudaMallocFromPoolAsync(reinterpret_cast<void**>(pointer), size, pool, stream);
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, std::size_t size, unsigned flags = cudaHostAllocDefault) {
  return cudaHostAlloc(reinterpret_cast<void**>(pointer), size, flags);
}
template <class T>
cudaError_t cudaHostAlloc(T** pointer, std::size_t size, unsigned flags) {
  return cudaHostAlloc(reinterpret_cast<void**>(pointer), size, flags);
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }
inline cudaError_t cudaEventCreate(cudaEvent_t* event, unsigned flags) {
  return cudaEventCreateWithFlags(event, flags);
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->binaryVersion = attributes->ptxVersion = 75;
  return cudaSuccess;
}
