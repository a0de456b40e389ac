#include <pybind11/stl.h>

#include "bind/bind.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"

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
  module.def("isa", &visdeploy::isa_name);
  module.def("isa_names", &visdeploy::isa_names);
  module.def("set_isa", &visdeploy::set_isa, py::arg("name"));
  visdeploy::bind::register_anchors(module);
  visdeploy::bind::register_detect(module);
  visdeploy::bind::register_nms(module);
  visdeploy::bind::register_null(module);
  visdeploy::bind::register_rle(module);
  visdeploy::bind::register_rle_sets(module);
}
