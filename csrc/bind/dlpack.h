#pragma once

#include <cstdint>

// The part of DLPack 1.3's binary interface that is used here: the table that a type publishes as
// __dlpack_c_exchange_api__, which takes tens of nanoseconds where __dlpack__() takes microseconds.
namespace visdeploy::bind::dlpack {

struct Tensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null where contiguous
  std::uint64_t byte_offset;
};

constexpr std::int32_t kCpu = 1, kCuda = 2, kCudaManaged = 13;
enum Code : std::uint8_t { kInt = 0, kUint = 1, kFloat = 2, kBool = 6 };

struct ManagedTensor {
  std::uint32_t major, minor;
  void* context;
  void (*deleter)(ManagedTensor* self);
  std::uint64_t flags;
  Tensor tensor;
};

// What a capsule held before version 1.0, and still does for a consumer that does not say which it takes.
struct LegacyTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(LegacyTensor* self);
};

constexpr const char *kCapsule = "dltensor_versioned", *kLegacyCapsule = "dltensor";

struct ExchangeApi {
  std::uint32_t major, minor;
  ExchangeApi* previous;
  void* allocate;
  int (*managed_from_object)(void* object, void** out);
  int (*managed_to_object)(ManagedTensor* tensor, void** out);  // takes the tensor over
  int (*tensor_from_object)(void* object, Tensor* out);         // borrows; null where not offered
  int (*current_stream)(std::int32_t device_type, std::int32_t device_id, void** out);
};

}  // namespace visdeploy::bind::dlpack
