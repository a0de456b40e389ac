// The emulation itself against plain loops: `primitives THREADS FIRST_SEED LAST_SEED` runs every primitive in two
// blocks of THREADS, and prints the order in which they took their first steps.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "shim.h"

namespace {

using Long = unsigned long long;

int failures = 0;
int block_threads = 0;
constexpr int kBlocks = 2;

void expect(const char* what, int i, Long got, Long expected) {
  if (got == expected || ++failures > 20) return;
  std::fprintf(stderr, "%s with %d threads: [%d] is %llx, expected %llx\n", what, block_threads, i, got, expected);
}

Long input(int i) { return (static_cast<Long>(i) * 0x9e3779b97f4a7c15ull) >> 7; }

// Runs a kernel that writes a word per thread, and compares each with expected(thread's index in the grid).
void compare(const char* what, void (*kernel)(Long*), const std::function<Long(int)>& expected) {
  std::vector<Long> out(static_cast<std::size_t>(kBlocks * block_threads), ~0ull);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(static_cast<unsigned>(block_threads));
  expect(what, -1, cudaLaunchKernelEx(&config, kernel, out.data()), cudaSuccess);
  for (int i = 0; i < kBlocks * block_threads; ++i) expect(what, i, out[static_cast<std::size_t>(i)], expected(i));
}

__device__ int index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }
__device__ int lane_index() { return static_cast<int>(threadIdx.x) % warpSize; }
// The lanes that the thread's warp has.
__device__ unsigned present() {
  const unsigned left = blockDim.x - threadIdx.x / 32 * 32;
  return left >= 32 ? ~0u : (1u << left) - 1;
}

// The same for the plain loops: thread i's block starts at first(i), its warp holds [warp(i), warp_end(i)).
int first(int i) { return i / block_threads * block_threads; }
int warp(int i) { return first(i) + (i - first(i)) / 32 * 32; }
int warp_end(int i) { return std::min(warp(i) + 32, first(i) + block_threads); }

__global__ void vote_kernel(Long* out) {
  const bool odd = input(index()) & 1;
  const unsigned ballot = __ballot_sync(present(), odd), any = __any_sync(present(), odd);
  out[index()] = Long{ballot} << 2 | any << 1 | static_cast<unsigned>(__all_sync(present(), odd));
}
Long vote(int i) {
  Long ballot = 0;
  bool all = true;
  for (int j = warp(i); j < warp_end(i); ++j) {
    ballot |= (input(j) & 1) << (j - warp(i));
    all &= input(j) & 1;
  }
  return ballot << 2 | (ballot != 0) << 1 | all;
}

// Half-warps vote on their own, one of them twice.
__global__ void partial_vote_kernel(Long* out) {
  const bool low = lane_index() < 16;
  const unsigned mask = present() & (low ? 0xffffu : 0xffff0000u);
  unsigned result = __ballot_sync(mask, input(index()) & 1);
  if (low) result += __ballot_sync(mask, input(index()) & 2);
  out[index()] = result;
}
Long partial_vote(int i) {
  const bool low = (i - warp(i)) < 16;
  unsigned one = 0, two = 0;
  for (int j = low ? warp(i) : warp(i) + 16; j < (low ? std::min(warp(i) + 16, warp_end(i)) : warp_end(i)); ++j) {
    one |= static_cast<unsigned>(input(j) & 1) << (j - warp(i));
    two |= static_cast<unsigned>(input(j) >> 1 & 1) << (j - warp(i));
  }
  return low ? one + two : one;
}

__global__ void match_kernel(Long* out) { out[index()] = __match_any_sync(present(), input(index()) % 5); }
Long match(int i) {
  Long lanes = 0;
  for (int j = warp(i); j < warp_end(i); ++j) lanes |= Long{input(i) % 5 == input(j) % 5} << (j - warp(i));
  return lanes;
}

// What a lane outside the warp would have given is undefined, so such lanes answer 0.
enum Shuffle { kIndex, kUp, kDown, kXor };
template <Shuffle kKind, int kWidth, class T>
__global__ void shuffle_kernel(Long* out) {
  const T value = static_cast<T>(input(index()) & 0xffffff);
  const int self = lane_index(), by = 3;
  int source = 0;
  T result{};
  if (kKind == kIndex) result = __shfl_sync(present(), value, self * 5 + by, kWidth);
  if (kKind == kUp) result = __shfl_up_sync(present(), value, by, kWidth);
  if (kKind == kDown) result = __shfl_down_sync(present(), value, by, kWidth);
  if (kKind == kXor) result = __shfl_xor_sync(present(), value, by, kWidth);
  // Section 10.22 of the CUDA programming guide, in other words.
  const int segment = self / kWidth * kWidth, end = segment + kWidth;
  if (kKind == kIndex) source = segment + (self * 5 + by) % kWidth;
  if (kKind == kUp) source = self - by >= segment ? self - by : self;
  if (kKind == kDown) source = self + by < end ? self + by : self;
  if (kKind == kXor) source = (self ^ by) < end ? self ^ by : self;
  const T expected = static_cast<T>(input(index() - self + source) & 0xffffff);
  out[index()] = (present() >> source & 1) == 0 || result == expected;
}
Long one(int) { return 1; }

template <int kWidth>
void compare_shuffles() {
  compare("shfl int", shuffle_kernel<kIndex, kWidth, int>, one);
  compare("shfl_up float", shuffle_kernel<kUp, kWidth, float>, one);
  compare("shfl_down 64-bit", shuffle_kernel<kDown, kWidth, long long>, one);
  compare("shfl_xor double", shuffle_kernel<kXor, kWidth, double>, one);
}

// A scan by shuffles within warps, and over the warps' sums by the first one.
__global__ void scan_kernel(Long* out) {
  __shared__ unsigned sums[32];
  const int self = lane_index();
  unsigned sum = static_cast<unsigned>(input(index()) & 0xff);
  for (int by = 1; by < 32; by *= 2) {
    const unsigned left = __shfl_up_sync(present(), sum, static_cast<unsigned>(by));
    if (self >= by) sum += left;
  }
  if (self == 31 || threadIdx.x == blockDim.x - 1) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  for (unsigned w = 0; w < threadIdx.x / 32; ++w) sum += sums[w];
  out[index()] = sum;
}
Long scan(int i) {
  Long sum = 0;
  for (int j = first(i); j <= i; ++j) sum += input(j) & 0xff;
  return sum;
}

// A tree in shared memory, many barriers; twice over, so that the second pass needs the one before it to have ended.
__global__ void reduce_kernel(Long* out) {
  __shared__ Long values[1024];
  Long result = 0;
  for (int pass = 0; pass < 2; ++pass) {
    values[threadIdx.x] = input(index()) >> pass & 0xffff;
    __syncthreads();
    for (unsigned half = 512; half > 0; half /= 2) {
      if (threadIdx.x < half && threadIdx.x + half < blockDim.x) values[threadIdx.x] += values[threadIdx.x + half];
      __syncthreads();
    }
    result += values[0];
    __syncthreads();
  }
  out[index()] = result;
}
Long reduce(int i) {
  Long sum = 0;
  for (int j = first(i); j < first(i) + block_threads; ++j) sum += (input(j) & 0xffff) + (input(j) >> 1 & 0xffff);
  return sum;
}

__global__ void barrier_vote_kernel(Long* out) {
  const bool odd = input(index()) & 1;
  const int count = __syncthreads_count(odd), any = __syncthreads_or(odd), all = __syncthreads_and(odd);
  out[index()] = static_cast<Long>(count << 2 | (any != 0) << 1 | (all != 0));
}
Long barrier_vote(int i) {
  int count = 0;
  for (int j = first(i); j < first(i) + block_threads; ++j) count += static_cast<int>(input(j) & 1);
  return static_cast<Long>(count << 2 | (count > 0) << 1 | (count == block_threads));
}

// Threads that leave before a barrier do not hold up the others.
__global__ void early_exit_kernel(Long* out) {
  __shared__ int count;
  out[index()] = 0;
  if (threadIdx.x % 3 == 1) return;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  __syncthreads();
  out[index()] = static_cast<Long>(count);
}
Long early_exit(int i) {
  return (i - first(i)) % 3 == 1 ? 0 : static_cast<Long>(block_threads - (block_threads + 1) / 3);
}

template <class T>
__global__ void atomics_kernel(Long* out) {
  __shared__ T cell[9];
  for (int i = 0; threadIdx.x == 0 && i < 9; ++i) cell[i] = i == 2 || i == 5 ? T{0x7fffff} : T{0};
  __syncthreads();
  const T value = static_cast<T>(input(index()) & 0x7fffff);
  atomicAdd(&cell[0], value);
  atomicSub(&cell[1], value);
  atomicMin(&cell[2], value);
  atomicMax(&cell[3], value);
  atomicOr(&cell[4], value);
  atomicAnd(&cell[5], value | 1);
  atomicXor(&cell[6], value);
  T old = 0;
  for (T seen = 1; seen != old;) {
    seen = old;
    old = atomicCAS(&cell[7], seen, static_cast<T>(seen + 1));
  }
  atomicExch(&cell[8], value);
  __syncthreads();
  out[index()] = 0;
  for (int i = 0; i < 8; ++i) out[index()] = out[index()] * 31 + static_cast<Long>(cell[i]);
}
template <class T>
Long atomics(int i) {
  T cell[8] = {0, 0, 0x7fffff, 0, 0, 0x7fffff, 0, static_cast<T>(block_threads)};
  for (int j = first(i); j < first(i) + block_threads; ++j) {
    const T value = static_cast<T>(input(j) & 0x7fffff);
    cell[0] = static_cast<T>(cell[0] + value);
    cell[1] = static_cast<T>(cell[1] - value);
    cell[2] = std::min(cell[2], value);
    cell[3] = std::max(cell[3], value);
    cell[4] |= value;
    cell[5] &= value | 1;
    cell[6] ^= value;
  }
  Long hash = 0;
  for (const T each : cell) hash = hash * 31 + static_cast<Long>(each);
  return hash;
}

void compare_all() {
  compare("vote", vote_kernel, vote);
  compare("partial vote", partial_vote_kernel, partial_vote);
  compare("match", match_kernel, match);
  compare_shuffles<32>();
  compare_shuffles<16>();
  compare_shuffles<4>();
  compare_shuffles<1>();
  compare("scan", scan_kernel, scan);
  compare("reduce", reduce_kernel, reduce);
  compare("barrier vote", barrier_vote_kernel, barrier_vote);
  compare("early exit", early_exit_kernel, early_exit);
  compare("atomics of int", atomics_kernel<int>, atomics<int>);
  compare("atomics of unsigned", atomics_kernel<unsigned>, atomics<unsigned>);
  compare("atomics of 64 bits", atomics_kernel<Long>, atomics<Long>);
}

// The order in which threads take their first step.
__device__ Long ticket = 0;
__global__ void order_kernel(Long* out) { out[index()] = atomicAdd(&ticket, 1); }

void print_order() {
  std::vector<Long> out(static_cast<std::size_t>(kBlocks * block_threads));
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks);
  config.blockDim = dim3(static_cast<unsigned>(block_threads));
  cudaLaunchKernelEx(&config, order_kernel, out.data());
  for (const Long each : out) std::printf("%llu ", each);
  std::printf("\n");
}

void compare_scalars() {
  expect("popc", 0, static_cast<Long>(__popc(0xf0f1u) + __popcll(~0ull)), 9 + 64);
  expect("ffs", 0, static_cast<Long>(__ffs(0) * 100 + __ffs(8)), 4);
  expect("ffsll", 0, static_cast<Long>(__ffsll(1ll << 40)), 41);
  expect("clz", 0, static_cast<Long>(__clz(0) * 100 + __clz(1)), 3231);
  expect("clzll", 0, static_cast<Long>(__clzll(0) * 100 + __clzll(-1)), 6400);
  expect("brev", 0, __brev(0x12345678u), 0x1e6a2c48u);
  expect("brevll", 0, __brevll(1), 1ull << 63);
  expect("byte_perm", 0, __byte_perm(0x33221100u, 0x77665584u, 0xc740u), 0xff778400u);
  expect("funnelshift_l", 0, __funnelshift_l(0x80000001u, 0x12345678u, 36), 0x23456788u);
  expect("funnelshift_r", 0, __funnelshift_r(0x80000001u, 0x12345678u, 4), 0x88000000u);
  expect("float2int_rz", 0, static_cast<unsigned>(__float2int_rz(-2.75f)), static_cast<unsigned>(-2));
  expect("float2int_rn", 0, static_cast<Long>(__float2int_rn(2.5f)), 2);
  expect("float2int_rz NaN", 0, static_cast<Long>(__float2int_rz(NAN)), 0);
  expect("float2int_rz saturates", 0, static_cast<Long>(__float2int_rz(3e9f)), 0x7fffffff);
  expect("float2uint_rz saturates", 0, __float2uint_rz(-1.0f), 0);
  expect("float_as_uint", 0, __float_as_uint(-0.0f), 0x80000000u);
  expect("min of int and unsigned", 0, min(-1, 5u), 5);
  expect("max with NaN", 0, max(NAN, 2.0f) == 2.0f, 1);
  expect("no contraction", 0, __float_as_uint(__fadd_rn(__fmul_rn(1.1f, 1.1f), -1.21f)),
         __float_as_uint(static_cast<float>(static_cast<float>(1.1f * 1.1f) - 1.21f)));
  expect("fmaf", 0, __fmaf_rn(1.1f, 1.1f, -1.21f) != __fadd_rn(__fmul_rn(1.1f, 1.1f), -1.21f), 1);
  static_assert(sizeof(float4) == 16 && alignof(float4) == 16 && alignof(uchar4) == 4 && sizeof(float3) == 12);
}

void refuse(const char* what, dim3 grid, dim3 block) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  expect(what, 0, cudaLaunchKernelEx(&config, order_kernel, nullptr), cudaErrorInvalidConfiguration);
  expect(what, 1, cudaGetLastError(), cudaErrorInvalidConfiguration);
}

}  // namespace

int main(int, char** arguments) {
  block_threads = std::atoi(arguments[1]);
  for (int seed = std::atoi(arguments[2]); seed <= std::atoi(arguments[3]); ++seed) {
    shim_set_seed(static_cast<std::uint64_t>(seed));
    ticket = 0;
    print_order();
    compare_all();
  }
  compare_scalars();
  refuse("1025 threads", 1, 1025);
  refuse("no threads", 1, 0);
  refuse("no blocks", dim3(1, 0, 1), 1);
  refuse("65536 blocks in y", dim3(1, 65536, 1), 1);
  refuse("65 threads in z", 1, dim3(1, 1, 65));
  return failures != 0;
}
