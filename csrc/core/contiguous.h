#pragma once

#include <cstring>
#include <vector>

#include "core/tensor.h"

namespace visdeploy {

// The values of a tensor in row-major order: its own memory where that is so already, else a copy.
template <class T>
class Contiguous {
 public:
  explicit Contiguous(const Tensor& tensor) {
    data_ = static_cast<const T*>(tensor.data);
    if (reinterpret_cast<std::uintptr_t>(data_) % alignof(T) == 0 && tensor.is_contiguous()) return;
    copy_.reserve(static_cast<std::size_t>(tensor.size()));
    append(tensor, 0, 0);
    data_ = copy_.data();
  }

  Contiguous(const Contiguous&) = delete;
  Contiguous& operator=(const Contiguous&) = delete;

  const T* data() const { return data_; }
  const T& operator[](std::int64_t i) const { return data_[i]; }

 private:
  void append(const Tensor& tensor, std::size_t axis, std::int64_t offset) {
    if (axis == tensor.shape.size()) {
      T value;
      std::memcpy(&value, tensor.at<T>(offset), sizeof(value));
      copy_.push_back(value);
      return;
    }
    for (std::int64_t i = 0; i < tensor.shape[axis]; ++i) append(tensor, axis + 1, offset + i * tensor.strides[axis]);
  }

  const T* data_;
  std::vector<T> copy_;
};

}  // namespace visdeploy
