// Memory of the emulated devices and pinned memory of the host, pools, and copies.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>

#include "runtime.h"
#include "shim.h"

extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void*, std::size_t);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, std::size_t);
}

// Pools keep books only. The memory itself comes from malloc each time, so that ASan sees every use after a free.
struct CUmemPoolHandle_st {
  int device;
  std::size_t threshold = 0, used = 0, reserved = 0, used_high = 0, reserved_high = 0;
};

namespace cuda_on_cpu {
namespace {

constexpr std::size_t kAlignment = 256, kRedZone = 256;
constexpr std::size_t kDeviceBytes = std::size_t{4} << 30;
constexpr unsigned char kRedByte = 0xa5, kFreshByte = 0xcd;

enum class Kind { kDevice, kPinned };
struct Allocation {
  std::size_t size;
  Kind kind;
  int device;
  cudaMemPool_t pool;
};
std::map<std::uintptr_t, Allocation> allocations;
std::multimap<std::uintptr_t, Allocation> registered;  // may overlap: views of one array
std::set<cudaMemPool_t> pools;
CUmemPoolHandle_st default_pools[kDevices] = {{0}, {1}};
std::int64_t fresh = 0, peak_bytes = 0;
bool protects = false;

// The allocation that holds [pointer, pointer + size).
const Allocation* find(const void* pointer, std::size_t size) {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const auto holds = [&](const auto& entry) {
    const std::size_t offset = address - entry.first, bytes = entry.second.size;
    return address >= entry.first && (offset < bytes || offset == 0) && size <= bytes - offset;
  };
  const auto above = allocations.upper_bound(address);
  if (above != allocations.begin() && holds(*std::prev(above))) return &std::prev(above)->second;
  for (const auto& entry : registered) {
    if (holds(entry)) return &entry.second;
  }
  return nullptr;
}
bool touches_device(const void* pointer) {
  const Allocation* found = find(pointer, 0);
  return found && found->kind != Kind::kPinned;
}

std::int64_t live_bytes() {
  std::size_t sum = 0;
  for (const auto& [address, allocation] : allocations) sum += allocation.size;
  return static_cast<std::int64_t>(sum);
}

std::size_t red_zone() { return __asan_poison_memory_region ? 0 : kRedZone; }  // ASan has its own

// Whether instrumented code may touch an allocation; only ASan can tell it not to.
void allow(const void* pointer, const Allocation& allocation, bool touching) {
  if (!__asan_poison_memory_region || allocation.kind != Kind::kDevice) return;
  (touching ? __asan_unpoison_memory_region : __asan_poison_memory_region)(pointer, allocation.size);
}
void allow_all(bool touching) {
  for (const auto& [address, each] : allocations) allow(reinterpret_cast<const void*>(address), each, touching);
}

cudaError_t allocate(void** pointer, std::size_t size, Kind kind, int device, cudaMemPool_t pool) {
  if (!pointer) return cudaErrorInvalidValue;
  if (size > kDeviceBytes || static_cast<std::size_t>(live_bytes()) > kDeviceBytes - size) {
    return cudaErrorMemoryAllocation;
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, size + 2 * red_zone()) != 0) return cudaErrorMemoryAllocation;
  std::memset(memory, kRedByte, size + 2 * red_zone());
  *pointer = static_cast<char*>(memory) + red_zone();
  std::memset(*pointer, kFreshByte, size);
  const Allocation& made = allocations[reinterpret_cast<std::uintptr_t>(*pointer)] = {size, kind, device, pool};
  if (protects) allow(*pointer, made, false);
  peak_bytes = std::max(peak_bytes, live_bytes());
  if (!pool) {
    ++fresh;
    return cudaSuccess;
  }
  pool->used += (size + kAlignment - 1) / kAlignment * kAlignment;
  pool->used_high = std::max(pool->used_high, pool->used);
  if (pool->used > pool->reserved) {
    pool->reserved = pool->used;
    pool->reserved_high = std::max(pool->reserved_high, pool->reserved);
    ++fresh;
  }
  return cudaSuccess;
}

cudaError_t free(void* pointer, bool (*takes)(const Allocation&)) {
  const auto found = allocations.find(reinterpret_cast<std::uintptr_t>(pointer));
  if (found == allocations.end() || !takes(found->second)) return cudaErrorInvalidValue;
  const Allocation allocation = found->second;
  allow(pointer, allocation, true);
  unsigned char* const low = static_cast<unsigned char*>(pointer) - red_zone();
  unsigned char* const high = static_cast<unsigned char*>(pointer) + allocation.size;
  for (std::size_t i = 0; i < red_zone(); ++i) {
    if (low[i] == kRedByte && high[i] == kRedByte) continue;
    std::fprintf(stderr, "cuda_on_cpu: something wrote %s an allocation of %zu bytes\n",
                 low[i] == kRedByte ? "past the end of" : "in front of", allocation.size);
    std::abort();
  }
  if (allocation.pool) allocation.pool->used -= (allocation.size + kAlignment - 1) / kAlignment * kAlignment;
  allocations.erase(found);
  std::free(low);
  return cudaSuccess;
}

void trim(cudaMemPool_t pool, std::size_t keep) {
  pool->reserved = std::max(pool->used, std::min(pool->reserved, keep));
}

cudaError_t check_side(const void* pointer, std::size_t size, bool on_device) {
  if (!pointer) return cudaErrorInvalidValue;
  if (touches_device(pointer) != on_device) return cudaErrorInvalidValue;
  if (on_device && !find(pointer, size)) return cudaErrorInvalidValue;
  return cudaSuccess;
}
// Copies of pageable memory wait for the stream; those between devices or from pinned memory do not.
bool is_pageable(const void* pointer) { return !find(pointer, 0); }

void copy(Entered& call, void* to, const void* from, std::size_t size, cudaMemcpyKind kind) {
  if (call.error != cudaSuccess || size == 0) return;
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) {
    call.error = cudaErrorInvalidMemcpyDirection;
    return;
  }
  const bool to_device = kind == cudaMemcpyDefault ? touches_device(to) : kind & 1;
  const bool from_device = kind == cudaMemcpyDefault ? touches_device(from) : kind & 2;
  call.error = check_side(to, size, to_device);
  if (call.error == cudaSuccess) call.error = check_side(from, size, from_device);
  if (call.error == cudaSuccess && (is_pageable(to) || is_pageable(from))) call.synchronizes();
  const DeviceAccess access;
  if (call.error == cudaSuccess) std::memmove(to, from, size);
}

}  // namespace

void trim_pools() {
  for (auto& pool : default_pools) trim(&pool, pool.threshold);
  for (const cudaMemPool_t pool : pools) trim(pool, pool->threshold);
}

void reset_memory_counts() {
  fresh = 0;
  peak_bytes = live_bytes();
}

DeviceAccess::DeviceAccess() {
  if (protects) allow_all(true);
}
DeviceAccess::~DeviceAccess() {
  if (protects) allow_all(false);
}

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

// --- Memory --------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, std::size_t size) {
  Entered call("cudaMalloc");
  if (call.error == cudaSuccess && anything_captures()) call.error = cudaErrorStreamCaptureUnsupported;
  if (call.error != cudaSuccess) return call.error;
  if (size == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  return call.error = allocate(pointer, size, Kind::kDevice, device_of(nullptr), nullptr);
}

cudaError_t cudaFree(void* pointer) {
  Entered call("cudaFree");
  if (!pointer) return call.error;
  call.synchronizes();
  if (call.error != cudaSuccess) return call.error;
  return call.error = free(pointer, [](const Allocation& a) { return a.kind == Kind::kDevice; });
}

cudaError_t cudaMallocAsync(void** pointer, std::size_t size, cudaStream_t stream) {
  Entered call("cudaMallocAsync", stream);
  if (call.error == cudaSuccess && size == 0) call.error = cudaErrorInvalidValue;
  if (call.error != cudaSuccess) return call.error;
  const int device = device_of(stream);
  return call.error = allocate(pointer, size, Kind::kDevice, device, &default_pools[device]);
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, std::size_t size, cudaMemPool_t pool, cudaStream_t stream) {
  Entered call("cudaMallocFromPoolAsync", stream);
  if (call.error == cudaSuccess && (size == 0 || !pool)) call.error = cudaErrorInvalidValue;
  if (call.error != cudaSuccess) return call.error;
  return call.error = allocate(pointer, size, Kind::kDevice, pool->device, pool);
}

cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream) {
  Entered call("cudaFreeAsync", stream);
  if (call.error != cudaSuccess || !pointer) return call.error;
  return call.error = free(pointer, [](const Allocation& a) { return a.kind == Kind::kDevice && a.pool != nullptr; });
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t size, unsigned) {
  Entered call("cudaHostAlloc");
  if (call.error == cudaSuccess && anything_captures()) call.error = cudaErrorStreamCaptureUnsupported;
  if (call.error != cudaSuccess) return call.error;
  return call.error = allocate(pointer, size, Kind::kPinned, device_of(nullptr), nullptr);
}

cudaError_t cudaMallocHost(void** pointer, std::size_t size) { return cudaHostAlloc(pointer, size, 0); }

cudaError_t cudaFreeHost(void* pointer) {
  Entered call("cudaFreeHost");
  if (!pointer) return call.error;
  call.synchronizes();
  if (call.error != cudaSuccess) return call.error;
  return call.error = free(pointer, [](const Allocation& a) { return a.kind == Kind::kPinned; });
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  Entered call("cudaMemGetInfo");
  *total = kDeviceBytes;
  *free = kDeviceBytes - static_cast<std::size_t>(live_bytes());
  return call.error;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  Entered call("cudaPointerGetAttributes");
  if (call.error != cudaSuccess) return call.error;
  void* const address = const_cast<void*>(pointer);
  const Allocation* found = find(pointer, 0);
  if (!found) {
    *attributes = {cudaMemoryTypeUnregistered, -2, nullptr, address};
  } else if (found->kind == Kind::kPinned) {
    *attributes = {cudaMemoryTypeHost, found->device, address, address};
  } else {
    *attributes = {cudaMemoryTypeDevice, found->device, address, nullptr};
  }
  return call.error;
}

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* props) {
  Entered call("cudaMemPoolCreate");
  if (call.error != cudaSuccess) return call.error;
  if (props->allocType != cudaMemAllocationTypePinned || props->location.type != cudaMemLocationTypeDevice ||
      !is_device_number(props->location.id)) {
    return call.error = cudaErrorInvalidValue;
  }
  *pool = new CUmemPoolHandle_st{props->location.id};
  pools.insert(*pool);
  return call.error;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  Entered call("cudaMemPoolDestroy");
  if (!pools.erase(pool)) return call.error = cudaErrorInvalidValue;
  for (auto& [address, allocation] : allocations) {
    if (allocation.pool == pool) allocation.pool = &default_pools[pool->device];  // it outlives its pool
  }
  default_pools[pool->device].used += pool->used;
  delete pool;
  return call.error;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  Entered call("cudaMemPoolSetAttribute");
  if (call.error == cudaSuccess && attribute == cudaMemPoolAttrReleaseThreshold) {
    std::uint64_t threshold;
    std::memcpy(&threshold, value, sizeof(threshold));
    pool->threshold = threshold;
  }
  return call.error;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  Entered call("cudaMemPoolGetAttribute");
  if (call.error != cudaSuccess) return call.error;
  std::uint64_t result = 0;
  if (attribute == cudaMemPoolAttrReleaseThreshold) result = pool->threshold;
  if (attribute == cudaMemPoolAttrReservedMemCurrent) result = pool->reserved;
  if (attribute == cudaMemPoolAttrReservedMemHigh) result = pool->reserved_high;
  if (attribute == cudaMemPoolAttrUsedMemCurrent) result = pool->used;
  if (attribute == cudaMemPoolAttrUsedMemHigh) result = pool->used_high;
  std::memcpy(value, &result, sizeof(result));
  return call.error;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t bytes_to_keep) {
  Entered call("cudaMemPoolTrimTo");
  if (call.error == cudaSuccess) trim(pool, bytes_to_keep);
  return call.error;
}

cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  Entered call("cudaDeviceGetDefaultMemPool");
  if (call.error == cudaSuccess && !is_device_number(device)) call.error = cudaErrorInvalidDevice;
  if (call.error == cudaSuccess) *pool = &default_pools[device];
  return call.error;
}

// --- Copies --------------------------------------------------------------------------------------------------------

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size, cudaMemcpyKind kind) {
  Entered call("cudaMemcpy", nullptr);
  call.synchronizes();
  copy(call, to, from, size, kind);
  return call.error;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind, cudaStream_t stream) {
  Entered call("cudaMemcpyAsync", stream);
  copy(call, to, from, size, kind);
  return call.error;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  Entered call("cudaMemcpy2DAsync", stream);
  if (width > to_pitch || width > from_pitch) return call.error = cudaErrorInvalidValue;
  for (std::size_t y = 0; y < height; ++y) {
    copy(call, static_cast<char*>(to) + y * to_pitch, static_cast<const char*>(from) + y * from_pitch, width, kind);
  }
  return call.error;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size, cudaStream_t stream) {
  Entered call("cudaMemsetAsync", stream);
  if (call.error == cudaSuccess && size > 0) call.error = check_side(to, size, true);
  const DeviceAccess access;
  if (call.error == cudaSuccess && size > 0) std::memset(to, value, size);
  return call.error;
}

cudaError_t cudaMemset(void* to, int value, std::size_t size) { return cudaMemsetAsync(to, value, size, nullptr); }

// --- Controls ---------------------------------------------------

std::int64_t shim_live_allocations() {
  LOCK;
  return static_cast<std::int64_t>(allocations.size());
}

std::int64_t shim_live_bytes() {
  LOCK;
  return live_bytes();
}

std::int64_t shim_peak_bytes() { return peak_bytes; }
std::int64_t shim_fresh_allocations() { return fresh; }

void shim_protect_device_memory(int protect) {
  LOCK;
  protects = protect != 0;
  allow_all(!protects);
}

void shim_register_device_memory(void* pointer, std::size_t size, int device) {
  LOCK;
  registered.insert({reinterpret_cast<std::uintptr_t>(pointer), {size, Kind::kDevice, device, nullptr}});
}

void shim_unregister_device_memory(void* pointer) {
  LOCK;
  const auto found = registered.find(reinterpret_cast<std::uintptr_t>(pointer));
  if (found != registered.end()) registered.erase(found);
}
