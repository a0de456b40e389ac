#include <pybind11/stl.h>

#include "bind/bind.h"
#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace {

void raise(const char* type, const std::exception& error) {
  PyErr_SetString(pybind11::module_::import("visdeploy.errors").attr(type).ptr(), error.what());
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  namespace py = pybind11;
  py::register_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const visdeploy::InputError& error) {
      raise("InputError", error);
    } catch (const visdeploy::UnsupportedError& error) {
      raise("UnsupportedError", error);
    } catch (const visdeploy::CudaError& error) {
      raise("CudaError", error);
    }
  });
  module.def("cpu_quota", &visdeploy::cpu_quota);
  module.def("cuda_devices", &visdeploy::cuda_devices);
  module.def("cuda_version", &visdeploy::cuda_version);
  module.def("isa", &visdeploy::isa_name);
  module.def("isa_names", &visdeploy::isa_names);
  module.def("set_isa", &visdeploy::set_isa, py::arg("name"));
  visdeploy::bind::register_anchors(module);
  visdeploy::bind::register_detect(module);
  visdeploy::bind::register_device_array(module);
  visdeploy::bind::register_letterbox(module);
  visdeploy::bind::register_nms(module);
  visdeploy::bind::register_null(module);
  visdeploy::bind::register_rle(module);
  visdeploy::bind::register_rle_sets(module);
}
