#include <cstring>
#include <map>
#include <mutex>

#include "core/cuda.cuh"

namespace visdeploy {
namespace {

thread_local const char* current_op = nullptr;

std::string prefix() { return current_op ? message("[", current_op, "] ") : ""; }

// One pool per device for as long as the process lives, so that freeing never gives memory back to the driver. Their
// list is never destroyed: results may go at any time until the end.
cudaMemPool_t pool_of(int device) {
  static std::mutex mutex;
  static auto& pools = *new std::map<int, cudaMemPool_t>;
  const std::lock_guard<std::mutex> lock(mutex);
  cudaMemPool_t& pool = pools[device];
  if (pool) return pool;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  const cuda::Uncaptured uncaptured;
  cudaMemPool_t made;
  VD_CUDA(cudaMemPoolCreate(&made, &properties));
  std::uint64_t keep = UINT64_MAX;
  VD_CUDA(cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &keep));
  return pool = made;
}

}  // namespace

namespace cuda {

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that can be forgotten is, so that the next call starts clean
  const auto unsupported = [](const auto&... parts) { throw UnsupportedError(message(prefix(), parts...)); };
  switch (status) {
    case cudaErrorInsufficientDriver:
      return unsupported("the NVIDIA driver is missing or older than this build's CUDA ", cuda_version(), " needs");
    case cudaErrorNoDevice:
      return unsupported("no CUDA device is visible to this process");
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return unsupported("this build holds no code for the device: it needs compute capability 7.5 or later");
    default:
      throw CudaError(message(prefix(), std::string(call, std::strcspn(call, "(")),
                              " failed: ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")"));
  }
}

OnDevice::OnDevice(Stream stream) {
  VD_CUDA(cudaGetDevice(&before_));
  if (before_ == stream.device) return;
  VD_CUDA(cudaSetDevice(stream.device));
  changed_ = true;
}

OpName::OpName(const char* op) : before_(std::exchange(current_op, op)) {}

OpName::~OpName() { current_op = before_; }

Scope::Scope(const char* op, Stream stream) : name_(op), on_device_(stream) {
  if (const cudaError_t pending = cudaGetLastError()) {
    throw CudaError(message(prefix(), "an earlier CUDA call had failed: ", cudaGetErrorString(pending), " (",
                            cudaGetErrorName(pending), ")"));
  }
}

namespace {

constexpr int kMostAxes = 8;

struct Layout {
  int axes;
  std::int64_t shape[kMostAxes], strides[kMostAxes];
};

// One thread per value; neighbours write neighbours.
template <class T>
__global__ void pack_kernel(const std::byte* data, Layout layout, std::int64_t n, T* out) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) {
    std::int64_t offset = 0, left = i;
    for (int axis = layout.axes - 1; axis >= 0; --axis) {
      offset += left % layout.shape[axis] * layout.strides[axis];
      left /= layout.shape[axis];
    }
    out[i] = *reinterpret_cast<const T*>(data + offset);
  }
}

template <class T>
void pack_as(const Tensor& tensor, Stream stream, void* out) {
  Layout layout{tensor.rank(), {}, {}};
  std::copy(tensor.shape.begin(), tensor.shape.end(), layout.shape);
  std::copy(tensor.strides.begin(), tensor.strides.end(), layout.strides);
  launch(pack_kernel<T>, blocks_for(tensor.size()), kThreads, stream, tensor.at<std::byte>(0), layout, tensor.size(),
         static_cast<T*>(out));
}

}  // namespace

void pack(const Tensor& tensor, Stream stream, void* out) {
  VD_CHECK(tensor.rank() <= kMostAxes, "expected at most ", kMostAxes, " axes, got ", tensor.rank());
  switch (size_of(tensor.dtype)) {
    case 1:
      return pack_as<std::uint8_t>(tensor, stream, out);
    case 2:
      return pack_as<std::uint16_t>(tensor, stream, out);
    case 4:
      return pack_as<std::uint32_t>(tensor, stream, out);
    default:
      return pack_as<std::uint64_t>(tensor, stream, out);
  }
}

}  // namespace cuda

void require_cuda(const char*, const char*) {}

void check_pointer(const char* op, const char* argument, const Tensor& tensor) {
  const cuda::Scope scope(op, *tensor.cuda);
  if (tensor.size() == 0) return;
  cudaPointerAttributes attributes{};
  VD_CUDA(cudaPointerGetAttributes(&attributes, tensor.data));
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  VD_CHECK(on_device, "[", op, "] ", argument, ": expected memory of CUDA device ", tensor.cuda->device,
           ", as the array says, got a host pointer");
  VD_CHECK(attributes.type == cudaMemoryTypeManaged || attributes.device == tensor.cuda->device, "[", op, "] ",
           argument, ": expected memory of CUDA device ", tensor.cuda->device,
           ", as the array says, got memory of device ", attributes.device);
}

DeviceMemory::DeviceMemory(Stream stream, std::size_t bytes) : stream_(stream), data_(nullptr) {
  if (bytes == 0) return;
  const cuda::OnDevice on_device(stream);
  VD_CUDA(cudaMallocFromPoolAsync(&data_, bytes, pool_of(stream.device), cuda::handle(stream)));
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : stream_(other.stream_), data_(std::exchange(other.data_, nullptr)) {}

// Freed also while an exception passes, and a failure must not be taken for one of the next call: check() forgets it.
DeviceMemory::~DeviceMemory() {
  if (!data_) return;
  try {
    const cuda::OnDevice on_device(stream_);
    VD_CUDA(cudaFreeAsync(data_, cuda::handle(stream_)));
  } catch (...) {
  }
}

namespace {

void copy(Stream stream, const void* from, std::size_t bytes, void* to, cudaMemcpyKind kind) {
  const cuda::OnDevice on_device(stream);
  VD_CUDA(cudaMemcpyAsync(to, from, bytes, kind, cuda::handle(stream)));
  VD_CUDA(cudaStreamSynchronize(cuda::handle(stream)));
}

}  // namespace

void copy_to_device(Stream stream, const void* host, std::size_t bytes, void* device) {
  copy(stream, host, bytes, device, cudaMemcpyHostToDevice);
}

void copy_to_host(Stream stream, const void* device, std::size_t bytes, void* host) {
  copy(stream, device, bytes, host, cudaMemcpyDeviceToHost);
}

void order(Stream stream, void* later) {
  if (stream.handle == later) return;
  const cuda::OnDevice on_device(stream);
  cudaEvent_t event;
  VD_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  const cudaError_t recorded = cudaEventRecord(event, cuda::handle(stream));
  const cudaError_t waits = recorded ? recorded : cudaStreamWaitEvent(static_cast<cudaStream_t>(later), event, 0);
  cudaEventDestroy(event);
  cuda::check(waits, recorded ? "cudaEventRecord" : "cudaStreamWaitEvent");
}

std::string cuda_version() { return message(CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10); }

int cuda_devices() {
  int count = 0;
  VD_CUDA(cudaGetDeviceCount(&count));
  return count;
}

}  // namespace visdeploy
