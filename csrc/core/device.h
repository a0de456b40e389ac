#pragma once

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

// What ops and bindings know of CUDA. A build without it has no_cuda.cpp in place of cuda.cu, which refuses.
namespace visdeploy {

struct Argument {
  const char* name;
  const Tensor* tensor;
};

// The stream that an op works on. It waits for the streams of the op's other arguments, and when this goes they wait
// for it: their owners may overwrite them, or read what was written, from then on.
class WorkStream {
 public:
  explicit WorkStream(Stream stream) : stream_(stream) {}
  WorkStream(WorkStream&& other) noexcept = default;
  WorkStream& operator=(WorkStream&& other) = default;
  ~WorkStream();

  operator Stream() const& { return stream_; }
  operator Stream() && = delete;  // it must outlive the work
  void share_with(Stream other);

 private:
  Stream stream_;
  std::vector<void*> others_;
};

// That of the first argument, nothing being the CPU. Arguments must all lie in one place, and on a device be aligned to
// their dtype.
std::optional<WorkStream> device_of(const char* op, std::initializer_list<Argument> arguments);

// Refuses arrays on a device in a build without CUDA.
void require_cuda(const char* op, const char* argument);

// Refuses an array whose memory is not of the device that it names.
void check_pointer(const char* op, const char* argument, const Tensor& tensor);

// Memory of a device from its stream-ordered pool: for what follows on the stream, and given back on it. The pool keeps
// what it has, so that a call that is repeated allocates nothing.
class DeviceMemory {
 public:
  DeviceMemory(Stream stream, std::size_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) = delete;
  ~DeviceMemory();

  void* data() const { return data_; }
  Stream stream() const { return stream_; }

 private:
  Stream stream_;
  void* data_;
};

// Copies to or from the device, and waits for that and all before it on the stream.
void copy_to_device(Stream stream, const void* host, std::size_t bytes, void* device);
void copy_to_host(Stream stream, const void* device, std::size_t bytes, void* host);

// Makes what follows on `later`, of the same device, wait for what is on `stream` by now.
void order(Stream stream, void* later);

// The version of CUDA's runtime in this build, such as "13.0"; empty without CUDA.
std::string cuda_version();

// The number of CUDA devices that this build can use; UnsupportedError says why there is none.
int cuda_devices();

}  // namespace visdeploy
