// Stands in for cuda.cu in a build without CUDA. Arrays on a device are refused before anything else here is reached.
#include "core/device.h"
#include "core/error.h"

namespace visdeploy {
namespace {

[[noreturn]] void refuse() {
  throw UnsupportedError("this build has no CUDA kernels; pip install visdeploy-cuda13 of the same version");
}

}  // namespace

void cuda::check_pointer(const char* op, const char* argument, const Tensor& tensor) {
  throw UnsupportedError(message("[", op, "] ", argument, ": expected an array in CPU memory, since this build has no ",
                                 "CUDA kernels, got one on CUDA device ", tensor.cuda->device,
                                 "; pip install visdeploy-cuda13 of the same version, or move it with .cpu()"));
}

DeviceMemory::DeviceMemory(Stream, std::size_t) { refuse(); }
DeviceMemory::DeviceMemory(DeviceMemory&&) noexcept = default;
DeviceMemory::~DeviceMemory() = default;
void copy_to_host(Stream, const void*, std::size_t, void*) { refuse(); }
void order(Stream, void*) { refuse(); }
std::string cuda_version() { return ""; }
int cuda_devices() { refuse(); }

}  // namespace visdeploy
