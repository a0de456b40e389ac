#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <variant>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"

namespace visdeploy::bind {

namespace py = pybind11;

struct DeviceArray;

// An argument that is an array: NumPy's, or anything in CPU or CUDA memory that speaks DLPack. Viewed, not copied, and
// kept alive while it is. Raises TypeError for other objects, InputError for other devices.
class Array {
 public:
  Array(py::object value, const char* op, const char* argument);

  const Tensor* operator->() const { return &tensor_; }
  const Tensor& operator*() const { return tensor_; }
  const py::object& value() const { return value_; }

  // The same, or UnsupportedError where it lies on a device.
  const Tensor& on_cpu() const;

  // A NumPy result as the kind of array that this one is: NumPy's own, or the framework's, sharing its memory.
  py::object like(const py::array& result) const;
  // The same for memory on the device that this one lies on.
  py::object like(const DeviceArray& array) const;

 private:
  py::object to_framework(const py::object& result) const;

  const char *op_, *argument_;
  py::object value_;
  py::object kept_;  // what owns the memory that the view reads
  Tensor tensor_;
};

py::dtype numpy_dtype(DType dtype);

// Where an op writes: new memory where `like` lies, or the array `out` that the caller lends, unless it is None. That
// must be contiguous and of this dtype and shape, of which a side of -1 may be anything.
class Output {
 public:
  Output(const Array& like, std::vector<std::int64_t> shape, DType dtype, const py::object& out = py::none(),
         const char* op = nullptr);

  template <class T>
  T* data() {
    return static_cast<T*>(data_);
  }
  const std::vector<std::int64_t>& shape() const { return shape_; }

  // The array: as `like` is, or the caller's. Called once.
  py::object take();
  // The first n along the first axis, of new memory.
  py::object take_first(std::int64_t n);
  // Of each along the first axis the first counts[i] along the second: views that share new memory of a device.
  std::vector<py::object> take_first_of_each(const std::vector<std::int64_t>& counts);

 private:
  const Array& like_;
  std::vector<std::int64_t> shape_;
  DType dtype_;
  std::optional<WorkStream> work_;  // shared with the stream of what is lent
  std::variant<std::monostate, py::array, DeviceMemory, Array> owner_;
  void* data_;
};

// `out` as a tuple of n arrays, or of n times None where it is None. Only arrays on a device have it.
std::vector<py::object> outputs(const py::object& out, std::size_t n, const Array& like, const char* op);

// Arguments that are numbers, or an InputError that names them.
std::int64_t integer(const py::object& value, const char* op, const char* argument);
double real(const py::object& value, const char* op, const char* argument);
std::vector<double> reals(const py::object& values, const char* op, const char* argument);

// The same where None is a value.
template <class Read>
auto unless_none(const py::object& value, const char* op, const char* argument, const Read& read) {
  std::optional<decltype(read(value, op, argument))> result;
  if (!value.is_none()) result = read(value, op, argument);
  return result;
}

// mode: "torchvision" or "exact".
bool is_torchvision(const py::object& mode, const char* op);

// num_threads as the ops take it: None is 0, which leaves the choice to the op.
int threads(const py::object& num_threads, const char* op);

void register_anchors(py::module_& module);
void register_detect(py::module_& module);
void register_device_array(py::module_& module);
void register_letterbox(py::module_& module);
void register_nms(py::module_& module);
void register_null(py::module_& module);
void register_rle(py::module_& module);
void register_rle_sets(py::module_& module);

}  // namespace visdeploy::bind
