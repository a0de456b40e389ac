// The CUDA runtime but for its memory: devices, streams, events, and what each call does first. All work is done when
// it is called.
#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "shim.h"

struct CUstream_st {
  int device = 0;
  bool capturing = false;
};
struct CUevent_st {
  int device;
  std::chrono::steady_clock::time_point time;
};
namespace cuda_on_cpu {
namespace {

constexpr std::size_t kMostCalls = 100000;  // listed by shim_calls

struct Plan {
  std::string function;
  int countdown;
  cudaError_t error;
};

std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;
std::vector<std::pair<const char*, cudaStream_t>> calls;
std::vector<Plan> plans;
cudaError_t sticky = cudaSuccess;
std::int64_t synchronizing = 0, launches = 0;
int device_count = kDevices, driver_version = 13000;
thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

bool is_legacy(cudaStream_t stream) { return stream == nullptr || stream == cudaStreamLegacy; }
bool is_built_in(cudaStream_t stream) { return is_legacy(stream) || stream == cudaStreamPerThread; }

}  // namespace

int device_of(cudaStream_t stream) { return is_built_in(stream) ? current_device : stream->device; }
bool anything_captures() {
  if (capture_mode == cudaStreamCaptureModeRelaxed) return false;
  return std::any_of(streams.begin(), streams.end(), [](cudaStream_t stream) { return stream->capturing; });
}
bool is_device_number(int device) { return device >= 0 && device < device_count; }

std::recursive_mutex& runtime_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

const cudaStream_t kNoStream = reinterpret_cast<cudaStream_t>(~std::uintptr_t{0});

Entered::Entered(const char* function, cudaStream_t stream) : lock_(runtime_mutex()) {
  if (stream != kNoStream && calls.size() < kMostCalls) calls.emplace_back(function, stream);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    if (!plans[i].function.empty() && plans[i].function != function) continue;
    if (--plans[i].countdown > 0) continue;
    error = plans[i].error;
    plans.erase(plans.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
  if (device_count < 0) {
    error = cudaErrorInsufficientDriver;
  } else if (device_count == 0) {
    error = cudaErrorNoDevice;
  } else if (sticky != cudaSuccess) {
    error = sticky;
  } else if (stream != kNoStream && !is_built_in(stream) && !streams.count(stream)) {
    error = cudaErrorInvalidResourceHandle;
  } else if (stream != kNoStream && is_legacy(stream) && anything_captures()) {
    error = cudaErrorStreamCaptureImplicit;
  } else if (stream != kNoStream && !is_built_in(stream) && stream->device != current_device &&
             (std::strcmp(function, "cudaLaunchKernelEx") == 0 || std::strcmp(function, "cudaEventRecord") == 0)) {
    error = cudaErrorInvalidResourceHandle;  // kernels run on the current device
  }
}

Entered::~Entered() {
  if (error != cudaSuccess) last_error = error;
}

void Entered::synchronizes() {
  ++synchronizing;
  if (error == cudaSuccess && anything_captures()) error = cudaErrorStreamCaptureUnsupported;
  if (error == cudaSuccess) trim_pools();
}

void count_launch() { ++launches; }

}  // namespace cuda_on_cpu

using namespace cuda_on_cpu;

// --- Devices and errors --------------------------------------------------------------------------------------------

cudaError_t cudaGetDevice(int* device) {
  Entered call("cudaGetDevice");
  if (call.error == cudaSuccess) *device = current_device;
  return call.error;
}

cudaError_t cudaSetDevice(int device) {
  Entered call("cudaSetDevice");
  if (call.error == cudaSuccess && !is_device_number(device)) call.error = cudaErrorInvalidDevice;
  if (call.error == cudaSuccess) current_device = device;
  return call.error;
}

cudaError_t cudaGetDeviceCount(int* count) {
  Entered call("cudaGetDeviceCount");
  *count = call.error == cudaSuccess ? device_count : 0;
  return call.error;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  Entered call("cudaDeviceGetAttribute");
  if (call.error != cudaSuccess) return call.error;
  if (!is_device_number(device)) return call.error = cudaErrorInvalidDevice;
  // As sm_75 has them, but for the odd and small number of multiprocessors.
  static const std::map<cudaDeviceAttr, int> values = {{cudaDevAttrMaxThreadsPerBlock, 1024},
                                                       {cudaDevAttrMaxGridDimX, 0x7fffffff},
                                                       {cudaDevAttrMaxGridDimY, 65535},
                                                       {cudaDevAttrMaxGridDimZ, 65535},
                                                       {cudaDevAttrMaxSharedMemoryPerBlock, 48 << 10},
                                                       {cudaDevAttrWarpSize, 32},
                                                       {cudaDevAttrClockRate, 1590000},
                                                       {cudaDevAttrMultiProcessorCount, 3},
                                                       {cudaDevAttrMemoryClockRate, 5001000},
                                                       {cudaDevAttrGlobalMemoryBusWidth, 256},
                                                       {cudaDevAttrL2CacheSize, 4 << 20},
                                                       {cudaDevAttrMaxThreadsPerMultiProcessor, 1024},
                                                       {cudaDevAttrComputeCapabilityMajor, 7},
                                                       {cudaDevAttrComputeCapabilityMinor, 5},
                                                       {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 64 << 10},
                                                       {cudaDevAttrMaxSharedMemoryPerBlockOptin, 64 << 10},
                                                       {cudaDevAttrMemoryPoolsSupported, 1}};
  const auto found = values.find(attribute);
  if (found == values.end()) return call.error = cudaErrorInvalidValue;
  *value = found->second;
  return call.error;
}

cudaError_t cudaDeviceSynchronize() {
  Entered call("cudaDeviceSynchronize");
  call.synchronizes();
  return call.error;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = device_count < 0 ? 0 : driver_version;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return sticky != cudaSuccess ? sticky : last_error; }

// --- Streams and events --------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Entered call("cudaStreamCreateWithFlags");
  if (call.error != cudaSuccess) return call.error;
  *stream = new CUstream_st{current_device};
  streams.insert(*stream);
  return call.error;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Entered call("cudaStreamDestroy");
  if (!streams.erase(stream)) return call.error = cudaErrorInvalidResourceHandle;
  delete stream;
  return call.error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Entered call("cudaStreamSynchronize", stream);
  call.synchronizes();
  return call.error;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Entered call("cudaStreamQuery", stream);
  if (call.error == cudaSuccess && anything_captures()) call.error = cudaErrorStreamCaptureUnsupported;
  return call.error;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  Entered call("cudaThreadExchangeStreamCaptureMode");
  if (call.error == cudaSuccess) std::swap(*mode, capture_mode);
  return call.error;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Entered call("cudaStreamIsCapturing", stream);
  if (call.error != cudaSuccess) return call.error;
  const bool captures = !is_built_in(stream) && stream->capturing;
  *status = captures ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return call.error;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Entered call("cudaStreamWaitEvent", stream);
  if (call.error == cudaSuccess && !events.count(event)) call.error = cudaErrorInvalidResourceHandle;
  return call.error;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Entered call("cudaLaunchHostFunc", stream);
  if (call.error == cudaSuccess) function(data);
  return call.error;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  Entered call("cudaEventCreateWithFlags");
  if (call.error != cudaSuccess) return call.error;
  *event = new CUevent_st{current_device, {}};
  events.insert(*event);
  return call.error;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Entered call("cudaEventDestroy");
  if (!events.erase(event)) return call.error = cudaErrorInvalidResourceHandle;
  delete event;
  return call.error;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Entered call("cudaEventRecord", stream);
  if (call.error == cudaSuccess && (!events.count(event) || event->device != device_of(stream))) {
    call.error = cudaErrorInvalidResourceHandle;
  }
  if (call.error == cudaSuccess) event->time = std::chrono::steady_clock::now();
  return call.error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Entered call("cudaEventSynchronize");
  if (call.error == cudaSuccess && !events.count(event)) call.error = cudaErrorInvalidResourceHandle;
  call.synchronizes();
  return call.error;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Entered call("cudaEventQuery");
  if (call.error == cudaSuccess && !events.count(event)) call.error = cudaErrorInvalidResourceHandle;
  return call.error;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  Entered call("cudaEventElapsedTime");
  if (call.error == cudaSuccess && (!events.count(start) || !events.count(end))) {
    call.error = cudaErrorInvalidResourceHandle;
  }
  if (call.error == cudaSuccess)
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return call.error;
}

// --- Controls ------------------------------------------------------------------------------------------------------

std::int64_t shim_synchronizing_calls() { return synchronizing; }
std::int64_t shim_kernel_launches() { return launches; }

const char* shim_calls() {
  LOCK;
  static std::string text;
  text.clear();
  for (const auto& [function, stream] : calls) {
    char line[96];
    std::snprintf(line, sizeof(line), "%s %#zx\n", function, reinterpret_cast<std::size_t>(stream));
    text += line;
  }
  return text.c_str();
}

void shim_reset() {
  LOCK;
  synchronizing = launches = 0;
  reset_memory_counts();
  calls.clear();
  plans.clear();
  sticky = last_error = cudaSuccess;
  for (const cudaStream_t stream : streams) stream->capturing = false;
  device_count = kDevices;
  driver_version = 13000;
}

void shim_fail(const char* function, int k, int error) {
  LOCK;
  plans.push_back({function, k, static_cast<cudaError_t>(error)});
}

void shim_set_pending_error(int error) { last_error = static_cast<cudaError_t>(error); }
void shim_set_sticky_error(int error) { sticky = static_cast<cudaError_t>(error); }

void shim_set_capturing(cudaStream_t stream, int capturing) {
  LOCK;
  if (streams.count(stream)) stream->capturing = capturing != 0;
}

void shim_set_devices(int count) { device_count = std::min(count, kDevices); }
void shim_set_driver_version(int version) { driver_version = version; }
