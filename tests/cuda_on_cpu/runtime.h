#pragma once

#include <mutex>

#include "cuda_runtime_api.h"

namespace cuda_on_cpu {

constexpr int kDevices = 2;
extern const cudaStream_t kNoStream;

std::recursive_mutex& runtime_mutex();
#define LOCK const std::lock_guard<std::recursive_mutex> lock(cuda_on_cpu::runtime_mutex())

bool is_device_number(int device);
int device_of(cudaStream_t stream);
bool anything_captures();

// Gives memory that pools do not use back, as far as their thresholds say.
void trim_pools();
void reset_memory_counts();

// What every runtime call does first: it is counted, may be told to fail, and must name a stream that exists. What it
// leaves in `error` is what cudaGetLastError finds.
struct Entered {
  explicit Entered(const char* function, cudaStream_t stream = kNoStream);
  ~Entered();
  Entered(const Entered&) = delete;
  // For calls that make the host wait: not allowed while a stream captures.
  void synchronizes();

  cudaError_t error = cudaSuccess;

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

// While it lives, what ASan watches may touch protected device memory: kernels, copies.
struct DeviceAccess {
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
};

void count_launch();

}  // namespace cuda_on_cpu
