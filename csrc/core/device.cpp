#include "core/device.h"

#include "core/error.h"

namespace visdeploy {
namespace {

std::string place(const Tensor& tensor) {
  return tensor.cuda ? message("one on CUDA device ", tensor.cuda->device) : "one in CPU memory";
}

}  // namespace

void WorkStream::share_with(Stream other) {
  if (other.handle == stream_.handle) return;
  order(other, stream_.handle);
  others_.push_back(other.handle);
}

WorkStream::~WorkStream() {
  try {
    for (void* other : others_) order(stream_, other);
  } catch (...) {
    // A stream that cannot be made to wait has gone.
  }
}

std::optional<WorkStream> device_of(const char* op, std::initializer_list<Argument> arguments) {
  const Argument& first = *arguments.begin();
  std::optional<WorkStream> work;
  if (first.tensor->cuda) work.emplace(*first.tensor->cuda);
  for (const auto& [name, tensor] : arguments) {
    const bool same = tensor->cuda.has_value() == first.tensor->cuda.has_value() &&
                      (!tensor->cuda || tensor->cuda->device == first.tensor->cuda->device);
    VD_CHECK(same, "[", op, "] ", name, ": expected an array where ", first.name, " lies, which is ",
             place(*first.tensor), ", got ", place(*tensor));
    if (!tensor->cuda) continue;
    const std::int64_t alignment = size_of(tensor->dtype);
    bool aligned = tensor->size() == 0 || reinterpret_cast<std::intptr_t>(tensor->data) % alignment == 0;
    for (const std::int64_t stride : tensor->strides) aligned &= tensor->size() == 0 || stride % alignment == 0;
    VD_CHECK(aligned, "[", op, "] ", name, ": expected device memory aligned to its ", visdeploy::name(tensor->dtype),
             ", got an address or stride that is not a multiple of ", alignment, " bytes");
    work->share_with(*tensor->cuda);
  }
  return work;
}

}  // namespace visdeploy
