#include "bind/bind.h"
#include "ops/null.h"

namespace visdeploy::bind {
namespace {

py::object null(const py::object& x) {
  const Array array(x, "null", "x");
  py::array_t<float> out(array->size());
  float* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::null(*array, data);
  }
  return array.like(out);
}

}  // namespace

void register_null(py::module_& module) { module.def("null", &null, py::arg("x")); }

}  // namespace visdeploy::bind
