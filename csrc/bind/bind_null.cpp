#include "bind/bind.h"
#include "core/error.h"
#include "ops/null.h"

namespace visdeploy::bind {
namespace {

py::array_t<float> null(const py::array& x) {
  const Tensor tensor = view(x);
  py::array_t<float> out(x.size());
  float* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::null(tensor, data);
  }
  return out;
}

}  // namespace

void register_null(py::module_& module) { module.def("null", &null, py::arg("x")); }

}  // namespace visdeploy::bind
