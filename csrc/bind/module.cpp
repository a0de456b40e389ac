#include "bind/bind.h"
#include "core/error.h"
#include "core/parallel.h"

namespace visdeploy::bind {

Tensor view(const py::array& array) {
  const auto dtype = [&] {
    if (!py::bool_(array.dtype().attr("isnative"))) return DType::kOther;
    switch (array.dtype().num()) {
      case py::detail::npy_api::NPY_BOOL_:
        return DType::kBool;
      case py::detail::npy_api::NPY_UBYTE_:
        return DType::kUint8;
      case py::detail::npy_api::NPY_INT64_:
        return DType::kInt64;
      case py::detail::npy_api::NPY_FLOAT_:
        return DType::kFloat32;
      case py::detail::npy_api::NPY_DOUBLE_:
        return DType::kFloat64;
      case 23:  // NPY_HALF, which pybind11 does not name
        return DType::kFloat16;
      default:
        return DType::kOther;
    }
  }();
  return {array.data(),
          {array.shape(), array.shape() + array.ndim()},
          {array.strides(), array.strides() + array.ndim()},
          dtype};
}

}  // namespace visdeploy::bind

PYBIND11_MODULE(_core, module) {
  namespace py = pybind11;
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const visdeploy::InputError& error) {
      const py::object type = py::module_::import("visdeploy.errors").attr("InputError");
      PyErr_SetString(type.ptr(), error.what());
    }
  });
  module.def("cpu_quota", &visdeploy::cpu_quota);
  visdeploy::bind::register_null(module);
  visdeploy::bind::register_rle(module);
}
