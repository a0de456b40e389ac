#pragma once

// What a kernel sees: its indices, barriers, warp intrinsics, atomics, bit and rounding intrinsics.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vector_types.h"

// Set anew for every step of a thread. CUDA has them const; here that would let g++ keep stale copies.
extern __attribute__((visibility("default"))) uint3 threadIdx, blockIdx;
extern __attribute__((visibility("default"))) dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_cpu {

enum class Op { kSyncthreads, kOr, kAnd, kCount, kSyncwarp, kBallot, kAny, kAll, kMatch, kShuffle };

// The source line of a barrier: threads of a block must wait at the same one, and messages name it.
struct Site {
  const char* file;
  int line;
};

__attribute__((visibility("default"))) int block_barrier(Op op, bool predicate, Site site);
// `source` is the lane a shuffle reads from. Values travel as 64 bits.
__attribute__((visibility("default"))) std::uint64_t warp_collective(Op op, unsigned mask, std::uint64_t value,
                                                                     int source, Site site);
__attribute__((visibility("default"))) int lane();

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable_v<From>);
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T>
std::uint64_t widen(T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || std::is_integral_v<T>, "CUDA exchanges 32 and 64-bit values");
  std::uint64_t wide = 0;
  std::memcpy(&wide, &value, sizeof(T));
  return wide;
}
template <class T>
T narrow(std::uint64_t wide) {
  T value;
  std::memcpy(&value, &wide, sizeof(T));
  return value;
}

// Rounds as asked, saturates, and takes NaN for 0 (or the sign bit alone in 64 bits), as the hardware does.
template <class To, class From>
To to_integer(From rounded) {
  if (std::isnan(rounded)) return sizeof(To) == 4 ? To{0} : static_cast<To>(std::uint64_t{1} << 63);
  constexpr To lowest = std::is_signed_v<To> ? static_cast<To>(To{1} << (sizeof(To) * 8 - 1)) : To{0};
  constexpr To highest = static_cast<To>(~lowest);
  if (rounded <= static_cast<From>(lowest)) return lowest;
  if (rounded >= static_cast<From>(highest)) return highest;
  return static_cast<To>(rounded);
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

// --- Barriers ------------------------------------------------------------------------------------------------------

inline void __syncthreads(CUDA_ON_CPU_SITE) {
  cuda_on_cpu::block_barrier(cuda_on_cpu::Op::kSyncthreads, false, {file, line});
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Op::kOr, predicate != 0, {file, line});
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Op::kAnd, predicate != 0, {file, line});
}
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::block_barrier(cuda_on_cpu::Op::kCount, predicate != 0, {file, line});
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_SITE) {
  cuda_on_cpu::warp_collective(cuda_on_cpu::Op::kSyncwarp, mask, 0, 0, {file, line});
}
// They order memory, and so does a step of a fiber. They are no barrier: TSan must not take them for one.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// --- Warp intrinsics -----------------------------------------------------------------------------------------------

// Any subset that holds the caller is a right answer; the smallest one is the hardest for code that hopes for more.
inline unsigned __activemask() { return 1u << cuda_on_cpu::lane(); }

inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_SITE) {
  return static_cast<unsigned>(
      cuda_on_cpu::warp_collective(cuda_on_cpu::Op::kBallot, mask, predicate != 0, 0, {file, line}));
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_SITE) {
  return static_cast<int>(cuda_on_cpu::warp_collective(cuda_on_cpu::Op::kAny, mask, predicate != 0, 0, {file, line}));
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_SITE) {
  return static_cast<int>(cuda_on_cpu::warp_collective(cuda_on_cpu::Op::kAll, mask, predicate != 0, 0, {file, line}));
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_SITE) {
  return static_cast<unsigned>(
      cuda_on_cpu::warp_collective(cuda_on_cpu::Op::kMatch, mask, cuda_on_cpu::widen(value), 0, {file, line}));
}

namespace cuda_on_cpu {
template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  return narrow<T>(warp_collective(Op::kShuffle, mask, widen(value), source, site));
}
}  // namespace cuda_on_cpu

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDA_ON_CPU_SITE) {
  const int segment = cuda_on_cpu::lane() & ~(width - 1);
  return cuda_on_cpu::shuffle(mask, value, segment + (source & (width - 1)), {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_SITE) {
  const int self = cuda_on_cpu::lane(), source = self - static_cast<int>(delta);
  return cuda_on_cpu::shuffle(mask, value, source < (self & ~(width - 1)) ? self : source, {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_SITE) {
  const int self = cuda_on_cpu::lane(), source = self + static_cast<int>(delta);
  return cuda_on_cpu::shuffle(mask, value, source > (self | (width - 1)) ? self : source, {file, line});
}
// A segment may read earlier segments, but not later ones.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_ON_CPU_SITE) {
  const int self = cuda_on_cpu::lane(), source = self ^ lane_mask;
  return cuda_on_cpu::shuffle(mask, value, source > (self | (width - 1)) ? self : source, {file, line});
}
#undef CUDA_ON_CPU_SITE

// --- Atomics: relaxed, as CUDA's are, and real ones, because TSan looks at them ------------------------------------

namespace cuda_on_cpu {
template <class T, class Change>
T atomic_change(T* address, Change change) {
  T old = __atomic_load_n(address, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(address, &old, change(old), true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
}
}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMICS(T)                                                                               \
  inline T atomicAdd(T* address, T value) { return __atomic_fetch_add(address, value, __ATOMIC_RELAXED); }   \
  inline T atomicSub(T* address, T value) { return __atomic_fetch_sub(address, value, __ATOMIC_RELAXED); }   \
  inline T atomicOr(T* address, T value) { return __atomic_fetch_or(address, value, __ATOMIC_RELAXED); }     \
  inline T atomicAnd(T* address, T value) { return __atomic_fetch_and(address, value, __ATOMIC_RELAXED); }   \
  inline T atomicXor(T* address, T value) { return __atomic_fetch_xor(address, value, __ATOMIC_RELAXED); }   \
  inline T atomicExch(T* address, T value) { return __atomic_exchange_n(address, value, __ATOMIC_RELAXED); } \
  inline T atomicCAS(T* address, T expected, T value) {                                                      \
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);       \
    return expected;                                                                                         \
  }                                                                                                          \
  inline T atomicMin(T* address, T value) {                                                                  \
    return cuda_on_cpu::atomic_change(address, [value](T old) { return value < old ? value : old; });        \
  }                                                                                                          \
  inline T atomicMax(T* address, T value) {                                                                  \
    return cuda_on_cpu::atomic_change(address, [value](T old) { return value > old ? value : old; });        \
  }
CUDA_ON_CPU_ATOMICS(int)
CUDA_ON_CPU_ATOMICS(unsigned)
CUDA_ON_CPU_ATOMICS(unsigned long long)
#undef CUDA_ON_CPU_ATOMICS

// --- Bits ----------------------------------------------------------------------------------------------------------

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline unsigned long long __brevll(unsigned long long x) {
  x = (x >> 1 & 0x5555555555555555ull) | (x & 0x5555555555555555ull) << 1;
  x = (x >> 2 & 0x3333333333333333ull) | (x & 0x3333333333333333ull) << 2;
  x = (x >> 4 & 0x0f0f0f0f0f0f0f0full) | (x & 0x0f0f0f0f0f0f0f0full) << 4;
  return __builtin_bswap64(x);
}
inline unsigned __brev(unsigned x) { return static_cast<unsigned>(__brevll(x) >> 32); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned pick = selector >> 4 * i;
    unsigned byte = static_cast<unsigned>(bytes >> 8 * (pick & 7)) & 0xff;
    if (pick & 8) byte = byte & 0x80 ? 0xff : 0;  // replicates the sign
    result |= byte << 8 * i;
  }
  return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((std::uint64_t{high} << 32 | low) >> (shift & 31));
}
template <class T>
T __ldg(const T* address) {
  return *address;
}

// --- Arithmetic: -ffp-contract=off makes the plain operator the rounded one ----------------------------------------

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }

#define CUDA_ON_CPU_ROUND(from, From, to, To)                                                       \
  inline To __##from##2##to##_rz(From x) { return cuda_on_cpu::to_integer<To>(std::trunc(x)); }     \
  inline To __##from##2##to##_rn(From x) { return cuda_on_cpu::to_integer<To>(std::nearbyint(x)); } \
  inline To __##from##2##to##_rd(From x) { return cuda_on_cpu::to_integer<To>(std::floor(x)); }     \
  inline To __##from##2##to##_ru(From x) { return cuda_on_cpu::to_integer<To>(std::ceil(x)); }      \
  inline From __##to##2##from##_rn(To x) { return static_cast<From>(x); }
CUDA_ON_CPU_ROUND(float, float, int, int)
CUDA_ON_CPU_ROUND(float, float, uint, unsigned)
CUDA_ON_CPU_ROUND(float, float, ll, long long)
CUDA_ON_CPU_ROUND(float, float, ull, unsigned long long)
CUDA_ON_CPU_ROUND(double, double, int, int)
CUDA_ON_CPU_ROUND(double, double, uint, unsigned)
CUDA_ON_CPU_ROUND(double, double, ll, long long)
CUDA_ON_CPU_ROUND(double, double, ull, unsigned long long)
#undef CUDA_ON_CPU_ROUND
inline float __double2float_rn(double x) { return static_cast<float>(x); }

inline int __float_as_int(float x) { return cuda_on_cpu::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return cuda_on_cpu::bits<unsigned>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return cuda_on_cpu::bits<float>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bits<double>(x); }

// min and max as CUDA overloads them: a signed and an unsigned argument meet as unsigned, a NaN loses.
#define CUDA_ON_CPU_MIN_MAX(A, B, T)                                                                               \
  inline T min(A a, B b) { return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); } \
  inline T max(A a, B b) { return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b); }
CUDA_ON_CPU_MIN_MAX(int, int, int)
CUDA_ON_CPU_MIN_MAX(unsigned, unsigned, unsigned)
CUDA_ON_CPU_MIN_MAX(int, unsigned, unsigned)
CUDA_ON_CPU_MIN_MAX(unsigned, int, unsigned)
CUDA_ON_CPU_MIN_MAX(long, long, long)
CUDA_ON_CPU_MIN_MAX(unsigned long, unsigned long, unsigned long)
CUDA_ON_CPU_MIN_MAX(long, unsigned long, unsigned long)
CUDA_ON_CPU_MIN_MAX(unsigned long, long, unsigned long)
CUDA_ON_CPU_MIN_MAX(long long, long long, long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
CUDA_ON_CPU_MIN_MAX(long long, unsigned long long, unsigned long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long, long long, unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(a, b); }
inline double min(double a, float b) { return fmin(a, b); }
inline double max(float a, double b) { return fmax(a, b); }
inline double max(double a, float b) { return fmax(a, b); }
