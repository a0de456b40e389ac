// Kernels in a right form and with one seeded fault each. `faults NAME right` must exit with 0 under every detector;
// `faults NAME wrong` must not, where the detector that is meant to see the fault is on.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "shim.h"

namespace {

constexpr int kThreads = 64;

// Every thread takes the value of its mirror image in a tile.
template <bool kWrong>
__global__ void tile_load_kernel(const int* x, int n, int* out) {
  __shared__ int tile[kThreads];
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kThreads + t;
  tile[t] = x[i];
  if (!kWrong) __syncthreads();
  if (i < n) out[i] = tile[kThreads - 1 - t];
}

// Sums all tiles, reading each one shifted; the next may only be loaded when all have read this one.
template <bool kWrong>
__global__ void loop_end_kernel(const int* x, int n, int* out) {
  __shared__ int tile[kThreads];
  const int t = static_cast<int>(threadIdx.x);
  int sum = 0;
  for (int first = 0; first < n; first += kThreads) {
    tile[t] = x[first + t];
    __syncthreads();
    for (int k = 1; k <= 3; ++k) sum += tile[(t + k) % kThreads];
    if (!kWrong) __syncthreads();
  }
  out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// Rotates by one within each warp.
template <bool kWrong>
__global__ void syncwarp_kernel(const int* x, int, int* out) {
  __shared__ int values[kThreads];
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kThreads + t;
  values[t] = x[i];
  if (!kWrong) __syncwarp();
  out[i] = values[(t & 32) + (t + 1) % 32];
}

template <bool kWrong>
__global__ void shared_overrun_kernel(const int* x, int, int* out) {
  __shared__ int tile[kThreads];
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kThreads + t;
  tile[t] = 0;
  __syncthreads();
  int* const cell = tile + t;  // by a pointer, which UBSan does not follow: ASan is meant to see it
  cell[kWrong ? 1 : 0] = x[i];
  __syncthreads();
  out[i] = tile[t];
}

// The sum of neighbours; the last number has none on its right.
template <bool kWrong>
__global__ void global_overrun_kernel(const int* x, int n, int* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const bool has_right = kWrong || i + 1 < n;
  const int right = has_right ? x[i + 1] : 0;
  out[i] = i + 1 < n ? x[i] + right : x[i];
}

// A barrier in a branch that a part of the block takes.
template <bool kWrong>
__global__ void divergent_barrier_kernel(const int* x, int, int* out) {
  __shared__ int tile[kThreads];
  const int t = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * kThreads + t;
  tile[t] = x[i];
  if (!kWrong || t < kThreads / 2) {
    __syncthreads();
  }
  __syncthreads();
  out[i] = tile[kThreads - 1 - t];
}

// How many numbers of a warp are odd. The last warp of a block is half empty.
template <bool kWrong>
__global__ void ballot_kernel(const int* x, int, int* out) {
  const unsigned present = threadIdx.x < 32 ? ~0u : 0xffffu;
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = __popc(__ballot_sync(kWrong ? ~0u : present, x[i] & 1));
}

// The lanes of the upper half have left when the lower half names them.
template <bool kWrong>
__global__ void exited_lane_kernel(const int* x, int, int* out) {
  const unsigned lane = threadIdx.x % 32, i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = x[i];
  if (lane >= 16) return;
  out[i] = __shfl_xor_sync(kWrong ? ~0u : 0xffffu, x[i], 1);
}

// Lanes meet with different masks.
template <bool kWrong>
__global__ void mask_mismatch_kernel(const int* x, int, int* out) {
  const unsigned lane = threadIdx.x % 32, i = blockIdx.x * blockDim.x + threadIdx.x;
  const unsigned half = lane < 16 ? 0xffffu : 0xffff0000u;
  out[i] = __shfl_xor_sync(kWrong && lane < 16 ? ~0u : half, x[i], 1);
  __syncwarp();
}

// Every thread adds to one counter.
template <bool kWrong>
__global__ void lost_update_kernel(const int* x, int, int* out) {
  __shared__ int count;
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  if (kWrong) {
    count += x[i];
  } else {
    atomicAdd(&count, x[i]);
  }
  __syncthreads();
  out[i] = count;
}

// A counter in shared memory that nobody sets to zero; one block, so that it is also the first one.
template <bool kWrong>
__global__ void unset_shared_kernel(const int* x, int, int* out) {
  __shared__ int count;
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (!kWrong && threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, x[i]);
  __syncthreads();
  out[i] = count;
}

template <bool kWrong>
__global__ void global_write_kernel(const int* x, int n, int* out) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  out[i] = x[i];
  if (kWrong && i == n - 1) out[i + 1] = 0;
}

template <bool kWrong>
__global__ void too_much_shared_kernel(const int* x, int, int* out) {
  __shared__ int tile[(48 << 8) + (kWrong ? 1 : 0)];
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  tile[threadIdx.x] = x[i];
  __syncthreads();
  out[i] = tile[threadIdx.x];
}

// The fault is in the host's code, which reads the result where it lies.
template <bool kWrong>
__global__ void host_read_kernel(const int* x, int, int* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = x[i];
}

int input(int i) { return i * 7 % 31; }
int mirrored(int i) { return input(i / kThreads * kThreads + kThreads - 1 - i % kThreads); }

int sum(int first, int last, const std::function<int(int)>& term) {
  int total = 0;
  for (int i = first; i < last; ++i) total += term(i);
  return total;
}

struct Case {
  const char* name;
  void (*right)(const int*, int, int*);
  void (*wrong)(const int*, int, int*);
  int blocks, threads;
  std::function<int(int)> expected;
};
#define KERNEL(name) #name, name##_kernel<false>, name##_kernel<true>

int block_sum(int i) { return sum(i / kThreads * kThreads, i / kThreads * kThreads + kThreads, input); }
int loop_sum(int i) {
  const auto shifted = [i](int j) { return input(j / 3 * kThreads + (i + 1 + j % 3) % kThreads); };
  return sum(0, 3 * 3, shifted);
}
int odd_in_warp(int i) {
  const int block = i / 48 * 48, first = i % 48 < 32 ? block : block + 32, last = i % 48 < 32 ? block + 32 : block + 48;
  return sum(first, last, [](int j) { return input(j) & 1; });
}

const Case kCases[] = {
    {KERNEL(tile_load), 3, kThreads, mirrored},
    {KERNEL(loop_end), 3, kThreads, loop_sum},
    {KERNEL(syncwarp), 3, kThreads, [](int i) { return input((i & ~31) + (i + 1) % 32); }},
    {KERNEL(shared_overrun), 3, kThreads, input},
    {KERNEL(global_overrun), 3, kThreads, [](int i) { return input(i) + (i + 1 < 3 * kThreads ? input(i + 1) : 0); }},
    {KERNEL(divergent_barrier), 3, kThreads, mirrored},
    {KERNEL(ballot), 3, 48, odd_in_warp},
    {KERNEL(exited_lane), 3, kThreads, [](int i) { return input(i % 32 < 16 ? i ^ 1 : i); }},
    {KERNEL(mask_mismatch), 3, kThreads, [](int i) { return input(i ^ 1); }},
    {KERNEL(lost_update), 3, kThreads, block_sum},
    {KERNEL(unset_shared), 1, kThreads, block_sum},
    {KERNEL(too_much_shared), 3, kThreads, input},
    {KERNEL(host_read), 3, kThreads, input},
    {KERNEL(global_write), 3, kThreads, input},
};

int run(const Case& each, bool wrong, std::uint64_t seed) {
  shim_set_seed(seed);
  const int n = each.blocks * each.threads;
  int *x, *out;
  cudaMalloc(&x, n * sizeof(int));
  cudaMalloc(&out, n * sizeof(int));
  std::vector<int> host(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) host[static_cast<std::size_t>(i)] = input(i);
  cudaMemcpy(x, host.data(), n * sizeof(int), cudaMemcpyHostToDevice);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(each.blocks));
  config.blockDim = dim3(static_cast<unsigned>(each.threads));
  if (cudaLaunchKernelEx(&config, wrong ? each.wrong : each.right, x, n, out) != cudaSuccess) return 2;
  const int* const result = wrong && std::strcmp(each.name, "host_read") == 0 ? out : host.data();
  cudaMemcpy(host.data(), out, n * sizeof(int), cudaMemcpyDeviceToHost);
  int bad = 0;
  for (int i = 0; i < n && !bad; ++i) {
    if (result[i] == each.expected(i)) continue;
    std::fprintf(stderr, "%s: wrong result with seed %d: out[%d] is %d, expected %d\n", each.name,
                 static_cast<int>(seed), i, result[i], each.expected(i));
    bad = 1;
  }
  cudaFree(x);
  cudaFree(out);
  return bad;
}

}  // namespace

// faults NAME right|wrong FIRST_SEED LAST_SEED
int main(int, char** arguments) {
  shim_protect_device_memory(1);
  for (const Case& each : kCases) {
    if (std::strcmp(arguments[1], each.name) != 0) continue;
    int bad = 0;
    for (int seed = std::atoi(arguments[3]); seed <= std::atoi(arguments[4]); ++seed) {
      bad |= run(each, std::strcmp(arguments[2], "wrong") == 0, static_cast<std::uint64_t>(seed));
    }
    return bad;
  }
  std::fprintf(stderr, "no such case: %s\n", arguments[1]);
  return 2;
}
