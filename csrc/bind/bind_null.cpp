#include "bind/bind.h"
#include "ops/null.h"

namespace visdeploy::bind {
namespace {

py::object null(const py::object& x, const py::object& out) {
  const Array array(x, "null", "x");
  Output result(array, {array->size()}, DType::kFloat32, outputs(out, 1, array, "null")[0], "null");
  {
    const py::gil_scoped_release release;
    visdeploy::null(*array, result.data<float>());
  }
  return result.take();
}

}  // namespace

void register_null(py::module_& module) { module.def("null", &null, py::arg("x"), py::arg("out")); }

}  // namespace visdeploy::bind
