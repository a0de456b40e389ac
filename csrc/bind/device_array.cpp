#include "bind/device_array.h"

#include <pybind11/stl.h>

#include <optional>

#include "bind/bind.h"

namespace visdeploy::bind {
namespace {

// A consumer that takes the tensor over renames the capsule.
template <class Managed>
py::capsule capsule_of(const DeviceArray& array, const char* name) {
  static const char* const kept_name = name;
  return py::capsule(lend<Managed>(array), name, [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, kept_name)) return;
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kept_name));
    managed->deleter(managed);
  });
}

py::capsule to_dlpack(const DeviceArray& array, const std::optional<std::intptr_t>& stream,
                      const std::optional<std::pair<int, int>>& max_version, const py::object&, const py::object&) {
  // In the protocol 1, or None, is the legacy default stream, and -1 says that the consumer sees to the order itself.
  const std::intptr_t later = stream.value_or(1);
  if (later != -1) order(array.memory->stream(), later == 1 ? nullptr : reinterpret_cast<void*>(later));
  if (max_version && max_version->first >= 1) return capsule_of<dlpack::ManagedTensor>(array, dlpack::kCapsule);
  return capsule_of<dlpack::LegacyTensor>(array, dlpack::kLegacyCapsule);
}

}  // namespace

void register_device_array(py::module_& module) {
  py::class_<DeviceArray>(module, "DeviceArray", py::module_local())
      .def_readonly("shape", &DeviceArray::shape)
      .def("__dlpack_device__",
           [](const DeviceArray& array) { return py::make_tuple(dlpack::kCuda, array.memory->stream().device); })
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
           py::arg("dl_device") = py::none(), py::arg("copy") = py::none());
}

}  // namespace visdeploy::bind
