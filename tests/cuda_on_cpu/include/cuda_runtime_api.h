#pragma once

// The part of the CUDA runtime that the project calls, in the words of CUDA's own header, carried out at once on the
// CPU.
#include <cstddef>
#include <cstdint>

#include "vector_types.h"

#define CUDA_ON_CPU 1
#define CUDART_VERSION 13000
#define CUDA_ON_CPU_API extern "C" __attribute__((visibility("default")))

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInitializationError = 3,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidDevicePointer = 17,
  cudaErrorInvalidMemcpyDirection = 21,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorInvalidDeviceFunction = 98,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorUnsupportedPtxVersion = 222,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorIllegalAddress = 700,
  cudaErrorLaunchOutOfResources = 701,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotPermitted = 800,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorStreamCaptureInvalidated = 901,
  cudaErrorStreamCaptureImplicit = 906,
  cudaErrorUnknown = 999
};

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4
};

enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3
};

struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void* devicePointer;
  void* hostPointer;
};

enum cudaDeviceAttr {
  cudaDevAttrMaxThreadsPerBlock = 1,
  cudaDevAttrMaxGridDimX = 5,
  cudaDevAttrMaxGridDimY = 6,
  cudaDevAttrMaxGridDimZ = 7,
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrWarpSize = 10,
  cudaDevAttrClockRate = 13,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrMemoryClockRate = 36,
  cudaDevAttrGlobalMemoryBusWidth = 37,
  cudaDevAttrL2CacheSize = 38,
  cudaDevAttrMaxThreadsPerMultiProcessor = 39,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrMemoryPoolsSupported = 115
};

struct cudaFuncAttributes {
  std::size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
  int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, cacheModeCA, maxDynamicSharedSizeBytes;
};

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaMemPool_t = struct CUmemPoolHandle_st*;
using cudaHostFn_t = void (*)(void*);

#define cudaStreamLegacy (reinterpret_cast<cudaStream_t>(0x1))
#define cudaStreamPerThread (reinterpret_cast<cudaStream_t>(0x2))
constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;
constexpr unsigned cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2;
constexpr unsigned cudaEventWaitDefault = 0;
constexpr unsigned cudaHostAllocDefault = 0, cudaHostAllocPortable = 1;

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2
};

enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
  cudaStreamCaptureStatusInvalidated = 2
};

enum cudaMemAllocationType { cudaMemAllocationTypeInvalid = 0, cudaMemAllocationTypePinned = 1 };
enum cudaMemAllocationHandleType { cudaMemHandleTypeNone = 0 };
enum cudaMemLocationType { cudaMemLocationTypeInvalid = 0, cudaMemLocationTypeDevice = 1 };
struct cudaMemLocation {
  cudaMemLocationType type;
  int id;
};
struct cudaMemPoolProps {
  cudaMemAllocationType allocType;
  cudaMemAllocationHandleType handleTypes;
  cudaMemLocation location;
  void* win32SecurityAttributes;
  std::size_t maxSize;
  unsigned short usage;
  unsigned char reserved[54];
};
enum cudaMemPoolAttr {
  cudaMemPoolReuseFollowEventDependencies = 1,
  cudaMemPoolReuseAllowOpportunistic = 2,
  cudaMemPoolReuseAllowInternalDependencies = 3,
  cudaMemPoolAttrReleaseThreshold = 4,
  cudaMemPoolAttrReservedMemCurrent = 5,
  cudaMemPoolAttrReservedMemHigh = 6,
  cudaMemPoolAttrUsedMemCurrent = 7,
  cudaMemPoolAttrUsedMemHigh = 8
};

struct cudaLaunchAttribute;  // accepted and not looked at
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

CUDA_ON_CPU_API cudaError_t cudaGetDevice(int* device);
CUDA_ON_CPU_API cudaError_t cudaSetDevice(int device);
CUDA_ON_CPU_API cudaError_t cudaGetDeviceCount(int* count);
CUDA_ON_CPU_API cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
CUDA_ON_CPU_API cudaError_t cudaDeviceSynchronize();
CUDA_ON_CPU_API cudaError_t cudaDriverGetVersion(int* version);
CUDA_ON_CPU_API cudaError_t cudaRuntimeGetVersion(int* version);

CUDA_ON_CPU_API cudaError_t cudaGetLastError();
CUDA_ON_CPU_API cudaError_t cudaPeekAtLastError();
CUDA_ON_CPU_API const char* cudaGetErrorName(cudaError_t error);
CUDA_ON_CPU_API const char* cudaGetErrorString(cudaError_t error);

CUDA_ON_CPU_API cudaError_t cudaMalloc(void** pointer, std::size_t size);
CUDA_ON_CPU_API cudaError_t cudaFree(void* pointer);
CUDA_ON_CPU_API cudaError_t cudaMallocAsync(void** pointer, std::size_t size, cudaStream_t stream);
CUDA_ON_CPU_API cudaError_t cudaMallocFromPoolAsync(void** pointer, std::size_t size, cudaMemPool_t pool,
                                                    cudaStream_t stream);
CUDA_ON_CPU_API cudaError_t cudaFreeAsync(void* pointer, cudaStream_t stream);
CUDA_ON_CPU_API cudaError_t cudaMallocHost(void** pointer, std::size_t size);
CUDA_ON_CPU_API cudaError_t cudaHostAlloc(void** pointer, std::size_t size, unsigned flags);
CUDA_ON_CPU_API cudaError_t cudaFreeHost(void* pointer);
CUDA_ON_CPU_API cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
CUDA_ON_CPU_API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);

CUDA_ON_CPU_API cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* props);
CUDA_ON_CPU_API cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool);
CUDA_ON_CPU_API cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
CUDA_ON_CPU_API cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value);
CUDA_ON_CPU_API cudaError_t cudaMemPoolTrimTo(cudaMemPool_t pool, std::size_t bytes_to_keep);
CUDA_ON_CPU_API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device);

CUDA_ON_CPU_API cudaError_t cudaMemcpy(void* to, const void* from, std::size_t size, cudaMemcpyKind kind);
CUDA_ON_CPU_API cudaError_t cudaMemset(void* to, int value, std::size_t size);

CUDA_ON_CPU_API cudaError_t cudaStreamCreate(cudaStream_t* stream);
CUDA_ON_CPU_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
CUDA_ON_CPU_API cudaError_t cudaStreamDestroy(cudaStream_t stream);
CUDA_ON_CPU_API cudaError_t cudaStreamSynchronize(cudaStream_t stream);
CUDA_ON_CPU_API cudaError_t cudaStreamQuery(cudaStream_t stream);
CUDA_ON_CPU_API cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
CUDA_ON_CPU_API cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode);
CUDA_ON_CPU_API cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data);

CUDA_ON_CPU_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
CUDA_ON_CPU_API cudaError_t cudaEventDestroy(cudaEvent_t event);
CUDA_ON_CPU_API cudaError_t cudaEventSynchronize(cudaEvent_t event);
CUDA_ON_CPU_API cudaError_t cudaEventQuery(cudaEvent_t event);
CUDA_ON_CPU_API cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);

// These have default arguments in CUDA.
CUDA_ON_CPU_API cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t size, cudaMemcpyKind kind,
                                            cudaStream_t stream = nullptr);
CUDA_ON_CPU_API cudaError_t cudaMemsetAsync(void* to, int value, std::size_t size, cudaStream_t stream = nullptr);
CUDA_ON_CPU_API cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                                              std::size_t width, std::size_t height, cudaMemcpyKind kind,
                                              cudaStream_t stream = nullptr);
CUDA_ON_CPU_API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
CUDA_ON_CPU_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
