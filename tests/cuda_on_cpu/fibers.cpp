// Runs kernels: one fiber per CUDA thread, on the OS thread that launches; see Note [What the emulation sees]. This
// file is compiled without sanitizers, also where the kernels have them, and looks at run time whether one is there.
#include <pthread.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <string>

#include "cuda_runtime.h"
#include "runtime.h"
#include "shim.h"
#include "switch.h"
#include "symbols.h"

extern "C" {
#define WEAK __attribute__((weak))
WEAK void __sanitizer_start_switch_fiber(void**, const void*, std::size_t);
WEAK void __sanitizer_finish_switch_fiber(void*, const void**, std::size_t*);
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned);
WEAK void __tsan_switch_to_fiber(void*, unsigned);
WEAK void __tsan_acquire(void*);
WEAK void __tsan_release(void*);
#undef WEAK
}

// Note [What the emulation sees]
//
// A thread runs until it waits: at a barrier, or for the lanes of a collective. Then another goes on, by the seed. So a
// missing barrier gives a wrong result under some order, but a plain addition in place of an atomic one does not. TSan
// sees both: each thread is a fiber of its own to it, and only barriers and collectives put them in order.
//
// Stops with one sentence: threads of a block that wait at barriers of different lines, or for ever; a mask that omits
// the caller, or names a lane that is absent or has exited; lanes that meet with different masks or intrinsics; more
// shared memory than sm_75 has. Threads that have exited hold up no block barrier, as on sm_70 and later.
//
// Shared memory is static. Arrays that a kernel declares itself are filled with garbage before each block; those in
// functions that it calls keep what the last block left. ASan guards them if they are internal, as in an unnamed
// namespace: an array in a template or inline function with external linkage is one that it leaves alone.
//
// Not seen: what blocks do to each other at the same time, as each ends before the next starts, though not in the order
// of their numbers; anything about streams but who used them; reads past the end of device memory without ASan.

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_on_cpu {
namespace {

constexpr int kUnset = 0xcb;  // bytes of shared memory before a block starts
constexpr std::size_t kMaxSharedBytes = 48 << 10;
constexpr unsigned kMaxThreads = 1024, kWarps = kMaxThreads / 32;
constexpr std::size_t kStackBytes = 256 << 10, kGuardBytes = 64 << 10;

struct Thread {
  void* stack_pointer = nullptr;
  void* stack = nullptr;
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan_fiber = nullptr;
  unsigned number = 0;
  uint3 index{};
  // What it waits for, and what it gets.
  Op op{};
  Site site{};
  unsigned mask = 0;
  int source = 0;
  std::uint64_t value = 0, result = 0;
  void* sync = nullptr;
};

// Bit l of a word stands for lane l. A live lane that is in none of the others is running.
struct Warp {
  unsigned live, ready, at_block_barrier, at_warp_barrier;
  unsigned rotation;
  bool phase[32];    // of the collectives whose lowest lane is l
  char sync[32][2];  // their addresses name TSan's synchronisation objects
};

struct Block {
  unsigned threads, warps, ready_warps, warp, live;
  unsigned waiting, predicates;  // at the block's barrier
  int barrier_result;
  const Thread* first_waiting;
  // Two, because a thread may come to the next barrier while another has not yet left this one.
  bool phase;
  char sync[2], start, end;
};

std::mutex launching;         // shared memory is static, so one kernel at a time
Thread threads[kMaxThreads];  // stays where it is: TSan and ASan remember addresses
unsigned fibers = 0;
Thread main_thread;
Thread* current = &main_thread;
Warp warps[kWarps];
Block block;
void (*kernel_invoke)(void*);
void* kernel_arguments;
const Kernel* kernel;
std::uint64_t launch_number, random_state;
bool seeded, mix_warps, mix_lanes;

std::uint64_t first_seed() {
  const char* text = std::getenv("CUDA_ON_CPU_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}
std::uint64_t seed = first_seed();

std::uint64_t random_number() {  // xorshift64*
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545f4914f6cdd1dull >> 32;
}

Warp& warp_of(const Thread& thread) { return warps[thread.number / 32]; }
unsigned bit_of(const Thread& thread) { return 1u << thread.number % 32; }

// --- Faults --------------------------------------------------------------------------------------------------------

std::string text_of(const char* format, ...) {
  char buffer[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(buffer, sizeof(buffer), format, list);
  va_end(list);
  return buffer;
}

[[noreturn]] void fault(const std::string& what) {
  std::fprintf(stderr, "cuda_on_cpu: %s<<<(%u, %u, %u), (%u, %u, %u)>>>, block (%u, %u, %u): %s\n",
               kernel->name.c_str(), gridDim.x, gridDim.y, gridDim.z, blockDim.x, blockDim.y, blockDim.z, blockIdx.x,
               blockIdx.y, blockIdx.z, what.c_str());
  std::fflush(stderr);
  std::abort();
}

const char* name(Op op) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and", "__syncthreads_count",
                                      "__syncwarp",    "__ballot_sync",    "__any_sync",        "__all_sync",
                                      "__match_sync",  "__shfl_sync"};
  return names[static_cast<int>(op)];
}

std::string waits(const Thread& thread) {
  std::string mask = thread.op >= Op::kSyncwarp ? text_of(" with mask %#x", thread.mask) : "";
  return text_of("thread (%u, %u, %u) waits at %s%s (%s:%d)", thread.index.x, thread.index.y, thread.index.z,
                 name(thread.op), mask.c_str(), thread.site.file, thread.site.line);
}

[[noreturn]] void deadlock() {
  const Thread *at_block = nullptr, *at_warp = nullptr;
  for (unsigned i = 0; i < block.threads; ++i) {
    if (warp_of(threads[i]).at_block_barrier & bit_of(threads[i])) at_block = &threads[i];
    if (warp_of(threads[i]).at_warp_barrier & bit_of(threads[i])) at_warp = &threads[i];
  }
  std::string what = "deadlock: " + waits(*at_warp) + ", which not all lanes of the mask reach";
  if (at_block) what += "; " + waits(*at_block);
  fault(what);
}

// --- Steps ---------------------------------------------------------------------------------------------------------

void acquire(void* sync) {
  if (__tsan_acquire) __tsan_acquire(sync);
}
void release(void* sync) {
  if (__tsan_release) __tsan_release(sync);
}

// The first set bit at or after `rotation`, cyclically.
unsigned choose(unsigned set, unsigned rotation) {
  const unsigned rotated = set >> rotation | set << (-rotation & 31);
  return (static_cast<unsigned>(__builtin_ctz(rotated)) + rotation) & 31;
}

void make_ready(unsigned warp, unsigned lanes) {
  warps[warp].ready |= lanes;
  block.ready_warps |= 1u << warp;
  warps[warp].rotation = seeded ? random_number() & 31 : 0;
}

void open_block_barrier() {
  const Op op = block.first_waiting->op;
  if (op == Op::kOr) block.barrier_result = block.predicates > 0;
  if (op == Op::kAnd) block.barrier_result = block.predicates == block.waiting;
  if (op == Op::kCount) block.barrier_result = static_cast<int>(block.predicates);
  for (unsigned w = 0; w < block.warps; ++w) {
    if (warps[w].at_block_barrier) make_ready(w, warps[w].at_block_barrier);
    warps[w].at_block_barrier = 0;
  }
  block.waiting = block.predicates = 0;
  block.first_waiting = nullptr;
  block.phase = !block.phase;
}

Thread* next_thread() {
  if (block.ready_warps == 0) {
    if (block.live == 0) return &main_thread;
    if (block.waiting < block.live) deadlock();
    open_block_barrier();
  }
  if (mix_warps || !(block.ready_warps >> block.warp & 1)) {
    block.warp = choose(block.ready_warps, seeded ? random_number() & 31 : block.warp);
  }
  Warp& warp = warps[block.warp];
  const unsigned lane = choose(warp.ready, mix_lanes ? random_number() & 31 : warp.rotation);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) block.ready_warps &= ~(1u << block.warp);
  return &threads[block.warp * 32 + lane];
}

// Gives the CPU to the next thread that can run, and returns when it is this one's turn again.
void step() {
  Thread& self = *current;
  Thread& next = *next_thread();
  if (&next == &self) return;
  current = &next;
  threadIdx = next.index;
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(next.tsan_fiber, 1);  // 1: no synchronisation
  if (__sanitizer_start_switch_fiber) __sanitizer_start_switch_fiber(&self.fake_stack, next.stack, next.stack_bytes);
  cuda_on_cpu_switch(&self.stack_pointer, next.stack_pointer);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(self.fake_stack, nullptr, nullptr);
}

void leave() {
  Thread& self = *current;
  Warp& warp = warp_of(self);
  for (unsigned lanes = warp.at_warp_barrier; lanes; lanes &= lanes - 1) {
    const Thread& waiting = threads[self.number / 32 * 32 + static_cast<unsigned>(__builtin_ctz(lanes))];
    if (waiting.mask & bit_of(self)) {
      fault(waits(waiting) + text_of(", but lane %u has exited", self.number % 32));
    }
  }
  warp.live &= ~bit_of(self);
  --block.live;
  release(&block.end);
  step();
}

// A fiber belongs to one thread number for good and runs that thread of every block.
[[noreturn]] void fiber_main() {
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
  for (;;) {
    acquire(&block.start);
    kernel_invoke(kernel_arguments);
    leave();
  }
}

void make_fiber() {
  Thread& thread = threads[fibers];
  thread.number = fibers++;
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) fault("no memory for stacks");
  // Different offsets, lest the tops of all stacks fall into the same few cache sets.
  char* const low = static_cast<char*>(memory) + kGuardBytes;
  char* const top = low + kStackBytes - thread.number % 32 * 320;
  thread.stack = low;
  thread.stack_bytes = static_cast<std::size_t>(top - low);
  thread.stack_pointer = first_frame(top, &fiber_main);
  if (__tsan_create_fiber) thread.tsan_fiber = __tsan_create_fiber(0);
}

void announce_main_thread() {
  current = &main_thread;
  main_thread.index = {};
  if (__tsan_get_current_fiber) main_thread.tsan_fiber = __tsan_get_current_fiber();
  if (!__sanitizer_start_switch_fiber) return;
  static thread_local void* stack = nullptr;
  static thread_local std::size_t bytes = 0;
  if (!stack) {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &bytes);
    pthread_attr_destroy(&attributes);
  }
  main_thread.stack = stack;
  main_thread.stack_bytes = bytes;
}

void run_block() {
  block.live = block.threads;
  block.ready_warps = 0;
  block.warp = 0;
  if (seeded) {
    block.warp = static_cast<unsigned>(random_number() % block.warps);
    const std::uint64_t style = random_number();
    mix_warps = style & 1;
    mix_lanes = style & 2;
  }
  for (unsigned w = 0; w < block.warps; ++w) {
    const unsigned lanes = block.threads - w * 32;
    warps[w].live = lanes >= 32 ? ~0u : (1u << lanes) - 1;
    warps[w].ready = warps[w].at_block_barrier = warps[w].at_warp_barrier = 0;
    make_ready(w, warps[w].live);
  }
  for (const SharedArray& each : kernel->shared) std::memset(each.address, kUnset, each.bytes);
  release(&block.start);
  step();
  acquire(&block.end);
}

void run_grid() {
  const std::uint64_t count = std::uint64_t{gridDim.x} * gridDim.y * gridDim.z;
  std::uint64_t at = 0, stride = 1;  // coprime to the count, so that every block has its turn
  if (seeded && count > 1) {
    at = random_number() % count;
    do stride = random_number() % count;
    while (std::gcd(stride, count) != 1);
  }
  for (std::uint64_t i = 0; i < count; ++i) {
    blockIdx.x = static_cast<unsigned>(at % gridDim.x);
    blockIdx.y = static_cast<unsigned>(at / gridDim.x % gridDim.y);
    blockIdx.z = static_cast<unsigned>(at / gridDim.x / gridDim.y);
    run_block();
    at += stride;
    if (at >= count) at -= count;
  }
}

cudaError_t check(const cudaLaunchConfig_t& config) {
  const dim3 grid = config.gridDim, threads_of = config.blockDim;
  const std::uint64_t count = std::uint64_t{threads_of.x} * threads_of.y * threads_of.z;
  if (count == 0 || count > kMaxThreads || threads_of.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  if (config.dynamicSmemBytes > 0) return cudaErrorNotSupported;  // the project declares static arrays
  return cudaSuccess;
}

}  // namespace

int lane() { return static_cast<int>(current->number % 32); }

int block_barrier(Op op, bool predicate, Site site) {
  Thread& self = *current;
  self.op = op;
  self.site = site;
  if (!block.first_waiting) block.first_waiting = &self;
  const Thread& first = *block.first_waiting;
  if (first.op != op || first.site.line != site.line || std::strcmp(first.site.file, site.file) != 0) {
    fault("divergent barrier: " + waits(first) + " while " + waits(self));
  }
  ++block.waiting;
  block.predicates += predicate;
  warp_of(self).at_block_barrier |= bit_of(self);
  void* const sync = &block.sync[block.phase];
  release(sync);
  step();
  acquire(sync);
  return block.barrier_result;
}

std::uint64_t warp_collective(Op op, unsigned mask, std::uint64_t value, int source, Site site) {
  Thread& self = *current;
  Warp& warp = warp_of(self);
  self.op = op;
  self.site = site;
  self.mask = mask;
  self.value = value;
  self.source = source;
  if (!(mask & bit_of(self))) fault(waits(self) + ", which omits its own lane");
  if (mask & ~warp.live) {
    fault(waits(self) + text_of(", which names lane %d, absent or exited", __builtin_ctz(mask & ~warp.live)));
  }
  Thread* const lanes = &threads[self.number / 32 * 32];
  const unsigned lowest = static_cast<unsigned>(__builtin_ctz(mask));
  void* const sync = &warp.sync[lowest][warp.phase[lowest]];
  release(sync);
  warp.at_warp_barrier |= bit_of(self);
  // A lane that waits with another mask may come to this one later; but not if it waits for this lane there.
  bool complete = (warp.at_warp_barrier & mask) == mask;
  std::uint64_t votes = 0;
  for (unsigned l = complete ? mask : 0; l; l &= l - 1) {
    const Thread& other = lanes[__builtin_ctz(l)];
    const bool agrees = other.mask == mask && other.op == op;
    if (!agrees && other.mask & bit_of(self)) fault("mismatch in a warp: " + waits(other) + " while " + waits(self));
    complete &= agrees;
    if (other.value) votes |= bit_of(other);
  }
  if (complete) {
    for (unsigned l = mask; l; l &= l - 1) {
      Thread& to = lanes[__builtin_ctz(l)];
      if (op == Op::kBallot) to.result = votes;
      if (op == Op::kAny) to.result = votes != 0;
      if (op == Op::kAll) to.result = votes == mask;
      // CUDA leaves the value of a lane outside the mask undefined.
      if (op == Op::kShuffle) {
        to.result = mask >> to.source & 1 ? lanes[to.source].value : 0xcdcdcdcdcdcdcdcdull;
      }
      if (op == Op::kMatch) {
        to.result = 0;
        for (unsigned m = mask; m; m &= m - 1) {
          const Thread& from = lanes[__builtin_ctz(m)];
          if (from.value == to.value) to.result |= bit_of(from);
        }
      }
    }
    warp.at_warp_barrier &= ~mask;
    warp.phase[lowest] = !warp.phase[lowest];
    // Who came last goes on, or, by the seed, waits for its turn with the others.
    const bool goes_on = !seeded || random_number() & 1;
    const unsigned others = goes_on ? mask & ~bit_of(self) : mask;
    if (others) make_ready(self.number / 32, others);
    if (!goes_on) step();
  } else {
    step();
  }
  acquire(sync);
  return self.result;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* address, void (*invoke)(void*), void* arguments) {
  Entered call("cudaLaunchKernelEx", config.stream);
  if (call.error == cudaSuccess) call.error = check(config);
  if (call.error != cudaSuccess) return call.error;
  const std::lock_guard<std::mutex> lock(launching);
  count_launch();
  kernel_invoke = invoke;
  kernel_arguments = arguments;
  kernel = &find_kernel(address);
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  block.threads = blockDim.x * blockDim.y * blockDim.z;
  block.warps = (block.threads + 31) / 32;
  block.first_waiting = nullptr;
  block.waiting = block.predicates = 0;
  seeded = seed != 0;
  mix_warps = mix_lanes = false;
  random_state = (seed + 1) * 0x9e3779b97f4a7c15ull ^ ++launch_number * 0xd1342543de82ef95ull;
  if (random_state == 0) random_state = 1;
  if (kernel->shared_bytes > kMaxSharedBytes) {
    fault(text_of("it declares %zu bytes of shared memory, and may have %zu", kernel->shared_bytes, kMaxSharedBytes));
  }
  announce_main_thread();
  while (fibers < block.threads) make_fiber();
  unsigned i = 0;
  for (unsigned z = 0; z < blockDim.z; ++z) {
    for (unsigned y = 0; y < blockDim.y; ++y) {
      for (unsigned x = 0; x < blockDim.x; ++x) threads[i++].index = {x, y, z};
    }
  }
  const DeviceAccess access;
  run_grid();
  return cudaSuccess;
}

}  // namespace cuda_on_cpu

void shim_set_seed(std::uint64_t seed) {
  const std::lock_guard<std::mutex> lock(cuda_on_cpu::launching);
  cuda_on_cpu::seed = seed;
  cuda_on_cpu::launch_number = 0;
}
