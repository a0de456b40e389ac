#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "core/tensor.h"

namespace visdeploy::bind {

namespace py = pybind11;

// A view of a NumPy array of any layout; the array must outlive it.
Tensor view(const py::array& array);

void register_null(py::module_& module);
void register_rle(py::module_& module);

}  // namespace visdeploy::bind
