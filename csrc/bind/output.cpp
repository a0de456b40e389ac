#include <pybind11/stl.h>

#include <algorithm>
#include <utility>

#include "bind/bind.h"
#include "bind/device_array.h"
#include "core/error.h"

namespace visdeploy::bind {
namespace {

std::string text_of(const std::vector<std::int64_t>& shape) {
  return Tensor{nullptr, shape, {}, DType::kOther}.shape_text();
}

}  // namespace

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return py::dtype::of<bool>();
    case DType::kInt32:
      return py::dtype::of<std::int32_t>();
    case DType::kInt64:
      return py::dtype::of<std::int64_t>();
    case DType::kFloat16:
      return py::dtype("float16");
    case DType::kFloat32:
      return py::dtype::of<float>();
    case DType::kFloat64:
      return py::dtype::of<double>();
    default:
      return py::dtype::of<std::uint8_t>();
  }
}

Output::Output(const Array& like, std::vector<std::int64_t> shape, DType dtype, const py::object& out, const char* op)
    : like_(like), shape_(std::move(shape)), dtype_(dtype) {
  if (!out.is_none()) {
    const Array& lent = owner_.emplace<Array>(out, op, "out");
    const auto fits = [](std::int64_t wanted, std::int64_t got) { return wanted == -1 || wanted == got; };
    VD_CHECK(lent->dtype == dtype, "[", op, "] out: expected ", name(dtype), ", got ", name(lent->dtype));
    VD_CHECK(std::equal(shape_.begin(), shape_.end(), lent->shape.begin(), lent->shape.end(), fits), "[", op,
             "] out: expected shape ", text_of(shape_), ", got ", lent->shape_text());
    VD_CHECK(lent->is_contiguous(), "[", op, "] out: expected a contiguous array");
    work_ = device_of(op, {{"the first argument", &*like}, {"out", &*lent}});
    shape_ = lent->shape;
    data_ = const_cast<void*>(lent->data);
  } else if (like->cuda) {
    auto bytes = static_cast<std::size_t>(size_of(dtype));
    for (const std::int64_t side : shape_) {
      VD_CHECK(!__builtin_mul_overflow(bytes, side, &bytes), "expected an answer that can be addressed, got shape ",
               text_of(shape_));
    }
    data_ = owner_.emplace<DeviceMemory>(*like->cuda, bytes).data();
  } else {
    data_ = owner_.emplace<py::array>(numpy_dtype(dtype), shape_).mutable_data();
  }
}

py::object Output::take() {
  if (auto* array = std::get_if<py::array>(&owner_)) return like_.like(*array);
  if (auto* memory = std::get_if<DeviceMemory>(&owner_)) {
    return like_.like({std::make_shared<DeviceMemory>(std::move(*memory)), shape_, dtype_});
  }
  return std::get<Array>(owner_).value();
}

py::object Output::take_first(std::int64_t n) {
  shape_[0] = n;
  return take();
}

std::vector<py::object> Output::take_first_of_each(const std::vector<std::int64_t>& counts) {
  const auto memory = std::make_shared<DeviceMemory>(std::move(std::get<DeviceMemory>(owner_)));
  std::vector<std::int64_t> shape(shape_.begin() + 1, shape_.end());
  std::int64_t bytes = size_of(dtype_);
  for (const std::int64_t side : shape) bytes *= side;
  std::vector<py::object> views;
  for (const std::int64_t count : counts) {
    shape[0] = count;
    views.push_back(like_.like({memory, shape, dtype_, static_cast<std::int64_t>(views.size()) * bytes}));
  }
  return views;
}

std::vector<py::object> outputs(const py::object& out, std::size_t n, const Array& like, const char* op) {
  if (out.is_none()) return std::vector<py::object>(n, py::none());
  VD_CHECK(like->cuda, "[", op, "] out: expected None for arrays in CPU memory");
  if (n == 1) return {out};
  VD_CHECK(py::isinstance<py::tuple>(out) && py::len(out) == n, "[", op, "] out: expected a tuple of ", n, " arrays");
  return out.cast<std::vector<py::object>>();
}

}  // namespace visdeploy::bind
