#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "core/tensor.h"

namespace visdeploy::bind {

namespace py = pybind11;

// An argument that is an array: NumPy's, or anything in CPU memory that speaks DLPack. Viewed, not copied, and kept
// alive while it is. Raises TypeError for other objects, InputError for other devices.
class Array {
 public:
  Array(py::object value, const char* op, const char* argument);

  const Tensor* operator->() const { return &tensor_; }
  const Tensor& operator*() const { return tensor_; }

  // A NumPy result as the kind of array that this one is: NumPy's own, or the framework's, sharing its memory.
  py::object like(const py::array& result) const;

 private:
  py::object value_;
  py::object kept_;  // what owns the memory that the view reads
  Tensor tensor_;
};

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
void register_nms(py::module_& module);
void register_null(py::module_& module);
void register_rle(py::module_& module);
void register_rle_sets(py::module_& module);

}  // namespace visdeploy::bind
