// Stands in for cuda.cu in a build without CUDA. The bindings refuse arrays on a device by require_cuda(), so that
// nothing else here is reached by way of them.
#include "core/device.h"
#include "core/error.h"

namespace visdeploy {
namespace {

[[noreturn]] void refuse() {
  throw UnsupportedError("this build has no CUDA kernels; pip install visdeploy-cuda13 of the same version");
}

}  // namespace

void require_cuda(const char* op, const char* argument) {
  throw UnsupportedError(message("[", op, "] ", argument, ": expected an array in CPU memory, since this build has no ",
                                 "CUDA kernels, got one on a CUDA device; pip install visdeploy-cuda13 of the same ",
                                 "version, or move the array with .cpu()"));
}

void check_pointer(const char*, const char*, const Tensor&) { refuse(); }
DeviceMemory::DeviceMemory(Stream, std::size_t) { refuse(); }
DeviceMemory::DeviceMemory(DeviceMemory&&) noexcept = default;
DeviceMemory::~DeviceMemory() = default;
void copy_to_device(Stream, const void*, std::size_t, void*) { refuse(); }
void copy_to_host(Stream, const void*, std::size_t, void*) { refuse(); }
void order(Stream, void*) { refuse(); }
std::string cuda_version() { return ""; }
int cuda_devices() { refuse(); }

}  // namespace visdeploy
