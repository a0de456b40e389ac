#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "bind/dlpack.h"
#include "core/device.h"
#include "core/tensor.h"

namespace visdeploy::bind {

// A row-major array in a device's memory, for frameworks to take over by DLPack.
struct DeviceArray {
  std::shared_ptr<DeviceMemory> memory;
  std::vector<std::int64_t> shape;
  DType dtype;
  std::int64_t offset = 0;  // in bytes, of the first value

  void* data() const { return static_cast<std::byte*>(memory->data()) + offset; }
};

inline std::pair<std::uint8_t, std::uint8_t> code_and_bits(DType dtype) {
  const auto bits = static_cast<std::uint8_t>(8 * size_of(dtype));
  switch (dtype) {
    case DType::kBool:
      return {dlpack::kBool, bits};
    case DType::kInt32:
    case DType::kInt64:
      return {dlpack::kInt, bits};
    case DType::kFloat16:
    case DType::kFloat32:
    case DType::kFloat64:
      return {dlpack::kFloat, bits};
    default:
      return {dlpack::kUint, bits};
  }
}

// A tensor of DLPack's that shares the array's memory, and keeps it until its deleter is called. Managed is
// dlpack::ManagedTensor or LegacyTensor.
template <class Managed>
Managed* lend(const DeviceArray& array) {
  struct Lent {
    Managed managed;
    DeviceArray array;
    std::vector<std::int64_t> strides;
  };
  auto* lent = new Lent{{}, array, std::vector<std::int64_t>(array.shape.size())};
  std::int64_t stride = 1;
  for (std::size_t i = array.shape.size(); i-- > 0; stride *= array.shape[i]) lent->strides[i] = stride;
  const auto [code, bits] = code_and_bits(array.dtype);
  Managed& managed = lent->managed;
  if constexpr (std::is_same_v<Managed, dlpack::ManagedTensor>) managed.major = 1;
  managed.context = lent;
  managed.deleter = [](Managed* self) { delete static_cast<Lent*>(self->context); };
  managed.tensor = {array.data(),
                    dlpack::kCuda,
                    array.memory->stream().device,
                    static_cast<std::int32_t>(array.shape.size()),
                    code,
                    bits,
                    1,
                    lent->array.shape.data(),
                    lent->strides.data(),
                    0};
  return &managed;
}

}  // namespace visdeploy::bind
