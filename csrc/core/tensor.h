#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace visdeploy {

enum class DType { kBool, kUint8, kInt32, kInt64, kFloat16, kFloat32, kFloat64, kOther };

inline const char* name(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return "bool";
    case DType::kUint8:
      return "uint8";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kFloat16:
      return "float16";
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kOther:
      break;
  }
  return "another dtype";
}

inline std::int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return 2;
    case DType::kInt32:
    case DType::kFloat32:
      return 4;
    case DType::kInt64:
    case DType::kFloat64:
      return 8;
    default:
      return 1;
  }
}

// A stream of a CUDA device: a cudaStream_t, of which null is the legacy default stream.
struct Stream {
  int device;
  void* handle;
};

// A read-only view of somebody else's memory. Strides are in bytes and may be zero or negative.
struct Tensor {
  const void* data;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  DType dtype;
  std::optional<Stream> cuda = std::nullopt;  // where the memory is a device's: its owner's stream, which work goes to

  int rank() const { return static_cast<int>(shape.size()); }

  std::int64_t size() const {
    std::int64_t product = 1;
    for (const std::int64_t side : shape) product *= side;
    return product;
  }

  template <class T>
  const T* at(std::int64_t byte_offset) const {
    return reinterpret_cast<const T*>(static_cast<const std::byte*>(data) + byte_offset);
  }

  bool is_contiguous() const {
    if (size() == 0) return true;
    std::int64_t expected = size_of(dtype);
    for (std::size_t i = shape.size(); i-- > 0; expected *= shape[i]) {
      if (shape[i] != 1 && strides[i] != expected) return false;
    }
    return true;
  }

  // The view at `index` along `axis`, one dimension lower.
  Tensor select(int axis, std::int64_t index) const {
    Tensor view = *this;
    view.data = at<std::byte>(index * strides[static_cast<std::size_t>(axis)]);
    view.shape.erase(view.shape.begin() + axis);
    view.strides.erase(view.strides.begin() + axis);
    return view;
  }

  // The view with an axis of length one before `axis`.
  Tensor insert(int axis) const {
    Tensor view = *this;
    view.shape.insert(view.shape.begin() + axis, 1);
    view.strides.insert(view.strides.begin() + axis, 0);
    return view;
  }

  // "(4, 3)"
  std::string shape_text() const {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + (rank() == 1 ? ",)" : ")");
  }
};

}  // namespace visdeploy
