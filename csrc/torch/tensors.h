#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"

// torch's tensors on its stable ABI, as the ops have them, and back.
namespace visdeploy::graph {

using Handle = torch::stable::Tensor;

inline DType dtype_of(const Handle& tensor) {
  std::int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
  if (dtype == aoti_torch_dtype_bool()) return DType::kBool;
  if (dtype == aoti_torch_dtype_uint8()) return DType::kUint8;
  if (dtype == aoti_torch_dtype_int32()) return DType::kInt32;
  if (dtype == aoti_torch_dtype_int64()) return DType::kInt64;
  if (dtype == aoti_torch_dtype_float16()) return DType::kFloat16;
  if (dtype == aoti_torch_dtype_float32()) return DType::kFloat32;
  if (dtype == aoti_torch_dtype_float64()) return DType::kFloat64;
  return DType::kOther;
}

// An argument, viewed and not copied. It must outlive the view.
inline Tensor view(const Handle& tensor, const char* op, const char* argument) {
  VD_CHECK(tensor.is_cpu(), "[", op, "] ", argument, ": expected a tensor in CPU memory, got one on ",
           tensor.is_cuda() ? "a CUDA device" : "another device", "; move it with .cpu()");
  std::int32_t layout;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(tensor.get(), &layout));
  VD_CHECK(layout == aoti_torch_layout_strided(), "[", op, "] ", argument,
           ": expected a dense tensor; make it one with .to_dense()");
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  Tensor result{
      tensor.const_data_ptr(), {sizes.begin(), sizes.end()}, {strides.begin(), strides.end()}, dtype_of(tensor)};
  VD_CHECK(result.data || result.size() == 0, "[", op, "] ", argument,
           ": expected a tensor whose memory was not freed");
  for (std::int64_t& stride : result.strides) stride *= size_of(result.dtype);
  return result;
}

// A new contiguous tensor on the CPU, of float, int64 or uint8.
template <class T>
Handle make(const char* op, const std::vector<std::int64_t>& shape) {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, std::int64_t> || std::is_same_v<T, std::uint8_t>);
  const std::int32_t dtype = std::is_same_v<T, float>          ? aoti_torch_dtype_float32()
                             : std::is_same_v<T, std::int64_t> ? aoti_torch_dtype_int64()
                                                               : aoti_torch_dtype_uint8();
  constexpr std::int64_t kMost = std::int64_t{1} << 40;  // beyond what any machine has, and far from overflow
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t size = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = size;
    VD_CHECK(shape[i] == 0 || size <= kMost / shape[i], "[", op,
             "] expected an answer that fits into memory, got shape ",
             Tensor{nullptr, shape, {}, DType::kOther}.shape_text());
    size *= std::max<std::int64_t>(1, shape[i]);
  }
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<std::int64_t>(shape.size()), shape.data(),
                                                         strides.data(), dtype, aoti_torch_device_type_cpu(), 0,
                                                         &made));
  return Handle(made);
}

template <class T>
T* data(const Handle& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <class T>
Handle make(const char* op, const std::vector<T>& values) {
  Handle tensor = make<T>(op, std::vector<std::int64_t>{static_cast<std::int64_t>(values.size())});
  std::copy(values.begin(), values.end(), data<T>(tensor));
  return tensor;
}

// A kernel as torch calls it. What an op refuses is a std::runtime_error there, Python's RuntimeError.
template <auto* kernel>
void boxed(StableIValue* stack, std::uint64_t inputs, std::uint64_t outputs) {
  try {
    torch::stable::detail::boxer<std::remove_pointer_t<decltype(kernel)>, kernel>::boxed_fn(stack, inputs, outputs);
  } catch (const InputError& error) {
    throw std::runtime_error(error.what());
  }
}

}  // namespace visdeploy::graph
