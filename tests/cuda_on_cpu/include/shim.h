#pragma once

// What tests ask of the emulation. C functions, so that Python reaches them with ctypes.
#include "cuda_runtime_api.h"

// The order in which threads and blocks take their steps. 0 is ascending; every other seed shuffles in its own way.
// The environment variable CUDA_ON_CPU_SEED sets the first one.
CUDA_ON_CPU_API void shim_set_seed(std::uint64_t seed);

// Memory from cudaMalloc*, cudaMallocHost and cudaHostAlloc that has not been freed, and the largest sum since the
// reset.
CUDA_ON_CPU_API std::int64_t shim_live_allocations();
CUDA_ON_CPU_API std::int64_t shim_live_bytes();
CUDA_ON_CPU_API std::int64_t shim_peak_bytes();
// How often memory had to be taken from the system since the reset: a pool that has room is not counted.
CUDA_ON_CPU_API std::int64_t shim_fresh_allocations();
// Calls since the reset that make the host wait for a stream or the device.
CUDA_ON_CPU_API std::int64_t shim_synchronizing_calls();
CUDA_ON_CPU_API std::int64_t shim_kernel_launches();
// "cudaMallocAsync 0x55d0\ncudaLaunchKernelEx 0x55d0\n": the calls on streams since the reset, with the stream of each.
// The text lives until the next call of this function.
CUDA_ON_CPU_API const char* shim_calls();
// Zeroes the counts above, clears errors and planned failures and the list of calls. Allocations stay.
CUDA_ON_CPU_API void shim_reset();

// The k-th next call (1 is the next) of the named function returns `error`; "" stands for any function.
CUDA_ON_CPU_API void shim_fail(const char* function, int k, int error);
// What cudaGetLastError returns and clears, as left behind by somebody else's call.
CUDA_ON_CPU_API void shim_set_pending_error(int error);
// As after a kernel crashed: every call returns `error`, until the reset.
CUDA_ON_CPU_API void shim_set_sticky_error(int error);
// While a stream captures, calls that synchronise and copies of pageable memory are refused.
CUDA_ON_CPU_API void shim_set_capturing(cudaStream_t stream, int capturing);
// 0: no device. -1: no driver. The default is 2.
CUDA_ON_CPU_API void shim_set_devices(int count);
CUDA_ON_CPU_API void shim_set_driver_version(int version);

// In builds with ASan: host code that touches memory of a device is stopped, as a GPU would. Memory that was registered
// is not protected.
CUDA_ON_CPU_API void shim_protect_device_memory(int protect);

// Makes memory of the caller (a NumPy array, say) count as memory of a device, and as host memory again.
CUDA_ON_CPU_API void shim_register_device_memory(void* pointer, std::size_t size, int device);
CUDA_ON_CPU_API void shim_unregister_device_memory(void* pointer);
