#include "bind/device_array.h"

#include <pybind11/stl.h>

#include <optional>

#include "bind/bind.h"
#include "core/error.h"

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
                      const std::optional<std::pair<int, int>>& max_version,
                      const std::optional<std::pair<int, int>>& device, const std::optional<bool>& copy) {
  const std::pair<int, int> own{dlpack::kCuda, array.memory->stream().device};
  if (device.value_or(own) != own || copy.value_or(false)) {
    throw py::buffer_error("[DeviceArray] expected to be taken where it is; .numpy() copies it to the CPU");
  }
  // In the protocol 1, or None, is the legacy default stream, and -1 says that the consumer sees to the order itself.
  const std::intptr_t later = stream.value_or(1);
  if (later != -1) order(array.memory->stream(), later == 1 ? nullptr : reinterpret_cast<void*>(later));
  if (max_version && max_version->first >= 1) return capsule_of<dlpack::ManagedTensor>(array, dlpack::kCapsule);
  return capsule_of<dlpack::LegacyTensor>(array, dlpack::kLegacyCapsule);
}

// Tells the stream that the memory is ordered on; version 3 of the protocol.
py::dict interface(const DeviceArray& array) {
  const auto stream = reinterpret_cast<std::intptr_t>(array.memory->stream().handle);
  const auto data = reinterpret_cast<std::intptr_t>(array.data());
  py::dict dict;
  dict["version"] = 3;
  dict["shape"] = py::tuple(py::cast(array.shape));
  dict["typestr"] = numpy_dtype(array.dtype).attr("str");
  dict["data"] = py::make_tuple(data, false);
  dict["stream"] = stream ? stream : 1;
  return dict;
}

DeviceArray to_device(const py::array& array, int device) {
  const auto contiguous = py::array::ensure(array, py::array::c_style);
  const Array view(contiguous, "DeviceArray", "array");
  VD_CHECK(view->dtype != DType::kOther, "[DeviceArray] array: expected a dtype that the ops take, got ",
           std::string(py::str(array.dtype())));
  const Stream stream{device, nullptr};
  const auto bytes = static_cast<std::size_t>(contiguous.nbytes());
  auto memory = std::make_shared<DeviceMemory>(stream, bytes);
  const void* const data = contiguous.data();
  {
    const py::gil_scoped_release release;
    copy_to_device(stream, data, bytes, memory->data());
  }
  return {std::move(memory), view->shape, view->dtype};
}

py::array to_numpy(const DeviceArray& array) {
  py::array result(numpy_dtype(array.dtype), array.shape);
  const auto bytes = static_cast<std::size_t>(result.nbytes());
  void* const data = result.mutable_data();
  {
    const py::gil_scoped_release release;
    copy_to_host(array.memory->stream(), array.data(), bytes, data);
  }
  return result;
}

}  // namespace

void register_device_array(py::module_& module) {
  py::class_<DeviceArray>(module, "DeviceArray", py::module_local())
      .def(py::init(&to_device), py::arg("array"), py::arg("device") = 0)
      .def("numpy", &to_numpy)
      .def_property_readonly("shape", [](const DeviceArray& array) { return py::tuple(py::cast(array.shape)); })
      .def_property_readonly("__cuda_array_interface__", &interface)
      .def("__dlpack_device__",
           [](const DeviceArray& array) { return py::make_tuple(dlpack::kCuda, array.memory->stream().device); })
      .def("__dlpack__", &to_dlpack, py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
           py::arg("dl_device") = py::none(), py::arg("copy") = py::none());
}

}  // namespace visdeploy::bind
