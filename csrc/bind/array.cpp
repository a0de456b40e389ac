#include <pybind11/stl.h>

#include <algorithm>
#include <climits>
#include <memory>
#include <string>
#include <utility>

#include "bind/bind.h"
#include "bind/device_array.h"
#include "bind/dlpack.h"
#include "core/error.h"

namespace visdeploy::bind {
namespace {

Tensor view(const py::array& array) {
  const auto dtype = [&] {
    const py::dtype type = array.dtype();
    if (type.byteorder() == '>') return DType::kOther;
    switch (type.num()) {
      case py::detail::npy_api::NPY_BOOL_:
        return DType::kBool;
      case py::detail::npy_api::NPY_UBYTE_:
        return DType::kUint8;
      case py::detail::npy_api::NPY_INT_:
        return DType::kInt32;
      case py::detail::npy_api::NPY_LONG_:
      case py::detail::npy_api::NPY_LONGLONG_:
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

bool is_cuda(std::int32_t device_type) { return device_type == dlpack::kCuda || device_type == dlpack::kCudaManaged; }

// The stream that an array's owner works on, which only some can be asked for; the legacy default stream otherwise.
void* stream_of(const py::object& array, int device) {
  if (py::hasattr(array, "is_cuda")) {
    // A torch without the exchange table; its interface does not tell.
    const py::object stream = py::module_::import("torch.cuda").attr("current_stream")(device);
    return reinterpret_cast<void*>(stream.attr("cuda_stream").cast<std::intptr_t>());
  }
  const py::object interface = py::getattr(array, "__cuda_array_interface__", py::none());
  if (!py::isinstance<py::dict>(interface)) return nullptr;
  const py::object stream = interface.attr("get")("stream");
  const auto number = stream.is_none() ? 0 : stream.cast<std::intptr_t>();
  return number == 1 ? nullptr : reinterpret_cast<void*>(number);
}

Tensor view(const dlpack::Tensor& tensor) {
  const auto dtype = [&] {
    if (tensor.lanes != 1) return DType::kOther;
    switch (tensor.code << 8 | tensor.bits) {
      case dlpack::kBool << 8 | 8:
        return DType::kBool;
      case dlpack::kUint << 8 | 8:
        return DType::kUint8;
      case dlpack::kInt << 8 | 32:
        return DType::kInt32;
      case dlpack::kInt << 8 | 64:
        return DType::kInt64;
      case dlpack::kFloat << 8 | 16:
        return DType::kFloat16;
      case dlpack::kFloat << 8 | 32:
        return DType::kFloat32;
      case dlpack::kFloat << 8 | 64:
        return DType::kFloat64;
      default:
        return DType::kOther;
    }
  }();
  Tensor result{static_cast<const std::byte*>(tensor.data) + tensor.byte_offset,
                {tensor.shape, tensor.shape + tensor.ndim},
                std::vector<std::int64_t>(static_cast<std::size_t>(tensor.ndim)),
                dtype};
  if (is_cuda(tensor.device_type)) result.cuda = Stream{tensor.device_id, nullptr};
  std::int64_t contiguous = 1;
  for (std::size_t i = result.shape.size(); i-- > 0; contiguous *= result.shape[i]) {
    result.strides[i] = (tensor.strides ? tensor.strides[i] : contiguous) * (tensor.bits / 8);
  }
  return result;
}

// The fast way in and out, null where the type has none.
const dlpack::ExchangeApi* exchange_api(const py::handle& type) {
  // The last answer, since one framework is used at a time. The type is held, so that its address stays its own.
  static PyObject* last_type = nullptr;
  static const dlpack::ExchangeApi* last = nullptr;
  if (type.ptr() == last_type) return last;
  const py::object capsule = py::getattr(type, "__dlpack_c_exchange_api__", py::none());
  const dlpack::ExchangeApi* api = nullptr;
  if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
    api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api->major != 1 || !api->tensor_from_object) api = nullptr;
  }
  Py_XDECREF(last_type);
  last_type = type.inc_ref().ptr();
  return last = api;
}

// A tensor that keeps a NumPy array alive and lends its memory.
struct Lent {
  dlpack::ManagedTensor managed{};
  py::array array;
  std::vector<std::int64_t> shape, strides;

  explicit Lent(const py::array& lender) : array(lender), shape(array.shape(), array.shape() + array.ndim()) {
    for (py::ssize_t i = 0; i < array.ndim(); ++i) strides.push_back(array.strides(i) / array.itemsize());
    const char kind = array.dtype().kind();
    const auto code = kind == 'f'   ? dlpack::kFloat
                      : kind == 'i' ? dlpack::kInt
                      : kind == 'u' ? dlpack::kUint
                                    : dlpack::kBool;
    const auto bits = static_cast<std::uint8_t>(8 * array.itemsize());
    managed = {1,
               0,
               this,
               &give_back,
               0,
               {array.mutable_data(), dlpack::kCpu, 0, static_cast<std::int32_t>(array.ndim()), code, bits, 1,
                shape.data(), strides.data(), 0}};
  }

  static void give_back(dlpack::ManagedTensor* self) {
    const py::gil_scoped_acquire acquire;
    delete static_cast<Lent*>(self->context);
  }
};

// The producer has raised; its first line says why (torch adds a stack trace).
[[noreturn]] void refuse_export(const char* op, const char* argument) {
  const py::error_already_set raised;
  const std::string why = py::str(raised.value());
  throw InputError(
      message("[", op, "] ", argument,
              ": expected an array in CPU or CUDA memory; its DLPack export says: ", why.substr(0, why.find('\n'))));
}

// A capsule of __dlpack__() for work on that stream. It owns the array until it is dropped.
py::object export_of(const py::object& array, void* stream, const char* op, const char* argument) {
  const auto number = reinterpret_cast<std::intptr_t>(stream);
  try {
    // The protocol has no zero, and calls the legacy default stream 1.
    return array.attr("__dlpack__")(py::arg("stream") = number ? number : 1);
  } catch (py::error_already_set& error) {
    error.restore();
    refuse_export(op, argument);
  }
}

const dlpack::Tensor* tensor_in(const py::object& capsule) {
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kCapsule)) {
    return &static_cast<const dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), dlpack::kCapsule))->tensor;
  }
  if (PyCapsule_IsValid(capsule.ptr(), dlpack::kLegacyCapsule)) {
    const void* legacy = PyCapsule_GetPointer(capsule.ptr(), dlpack::kLegacyCapsule);
    return &static_cast<const dlpack::LegacyTensor*>(legacy)->tensor;
  }
  return nullptr;
}

}  // namespace

Array::Array(py::object value, const char* op, const char* argument)
    : op_(op), argument_(argument), value_(std::move(value)) {
  if (py::isinstance<py::array>(value_)) {
    kept_ = value_;
    tensor_ = view(py::reinterpret_borrow<py::array>(value_));
    return;
  }
  const py::handle type = py::type::handle_of(value_);
  if (!py::hasattr(type, "__dlpack__")) {
    throw py::type_error(message("[", op, "] ", argument,
                                 ": expected a NumPy array or one that speaks DLPack, such as a torch.Tensor, got ",
                                 Py_TYPE(value_.ptr())->tp_name));
  }
  const auto check_device = [&](std::int32_t device_type) {
    VD_CHECK(device_type == dlpack::kCpu || is_cuda(device_type), "[", op, "] ", argument,
             ": expected an array in CPU or CUDA memory, got one on another device; move it with .cpu()");
    if (is_cuda(device_type)) require_cuda(op, argument);
  };
  const dlpack::ExchangeApi* api = exchange_api(type);
  dlpack::Tensor tensor{};
  if (api) {
    if (api->tensor_from_object(value_.ptr(), &tensor) != 0) refuse_export(op, argument);
    check_device(tensor.device_type);
    kept_ = value_;
    tensor_ = view(tensor);
    if (tensor_.cuda && api->current_stream(tensor.device_type, tensor.device_id, &tensor_.cuda->handle) != 0) {
      throw py::error_already_set();
    }
  } else {
    const auto [device_type, device_id] = value_.attr("__dlpack_device__")().cast<std::pair<int, int>>();
    check_device(device_type);
    if (device_type == dlpack::kCpu) {
      const py::object from_dlpack = py::module_::import("numpy").attr("from_dlpack");
      kept_ = py::reinterpret_steal<py::object>(PyObject_CallOneArg(from_dlpack.ptr(), value_.ptr()));
      if (!kept_) refuse_export(op, argument);
      tensor_ = view(py::reinterpret_borrow<py::array>(kept_));
      return;
    }
    void* const stream = stream_of(value_, device_id);
    kept_ = export_of(value_, stream, op, argument);
    const dlpack::Tensor* exported = tensor_in(kept_);
    VD_CHECK(exported, "[", op, "] ", argument, ": expected __dlpack__() to give a capsule named dltensor");
    tensor_ = view(*exported);
    tensor_.cuda = Stream{device_id, stream};
  }
  VD_CHECK(tensor_.data || tensor_.size() == 0, "[", op, "] ", argument, ": expected an array with data, got a ",
           Py_TYPE(value_.ptr())->tp_name, " of shape ", tensor_.shape_text(), " that has none");
  if (tensor_.cuda) check_pointer(op, argument, tensor_);
}

const Tensor& Array::on_cpu() const {
  if (tensor_.cuda) {
    throw UnsupportedError(message("[", op_, "] ", argument_,
                                   ": expected an array in CPU memory, where alone this op works, ",
                                   "got one on CUDA device ", tensor_.cuda->device, "; move it with .cpu()"));
  }
  return tensor_;
}

py::object Array::like(const py::array& result) const {
  if (kept_.is(value_) && py::isinstance<py::array>(value_)) return result;
  if (const dlpack::ExchangeApi* api = exchange_api(py::type::handle_of(value_))) {
    void* object = nullptr;
    auto lent = std::make_unique<Lent>(result);
    if (api->managed_to_object(&lent->managed, &object) != 0) throw py::error_already_set();
    lent.release();  // given back by its deleter
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  }
  return to_framework(result);
}

py::object Array::like(const DeviceArray& array) const {
  if (const dlpack::ExchangeApi* api = exchange_api(py::type::handle_of(value_))) {
    void* object = nullptr;
    dlpack::ManagedTensor* const lent = lend<dlpack::ManagedTensor>(array);
    if (api->managed_to_object(lent, &object) != 0) {
      lent->deleter(lent);
      throw py::error_already_set();
    }
    return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
  }
  return to_framework(py::cast(array));
}

py::object Array::to_framework(const py::object& result) const {
  if (py::isinstance<DeviceArray>(value_)) return result;
  const std::string name = py::type::handle_of(value_).attr("__module__").cast<std::string>();
  const py::module_ module = py::module_::import(name.substr(0, name.find('.')).c_str());
  // A framework that cannot be asked gets what every framework reads.
  return py::hasattr(module, "from_dlpack") ? module.attr("from_dlpack")(result) : result;
}

std::int64_t integer(const py::object& value, const char* op, const char* argument) {
  int overflow = 0;
  std::int64_t number = 0;
  if (PyIndex_Check(value.ptr())) {
    const auto index = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!index) throw py::error_already_set();
    number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  }
  VD_CHECK(PyIndex_Check(value.ptr()) && overflow == 0, "[", op, "] ", argument, ": expected a whole number, got ",
           std::string(py::repr(value)));
  return number;
}

double real(const py::object& value, const char* op, const char* argument) {
  const double number = PyFloat_AsDouble(value.ptr());
  if (!PyErr_Occurred()) return number;
  PyErr_Clear();
  throw InputError(message("[", op, "] ", argument, ": expected a number, got ", std::string(py::repr(value))));
}

std::vector<double> reals(const py::object& values, const char* op, const char* argument) {
  const auto sequence = py::reinterpret_steal<py::object>(PySequence_List(values.ptr()));
  if (!sequence) {
    PyErr_Clear();
    throw InputError(message("[", op, "] ", argument, ": expected numbers, got ", std::string(py::repr(values))));
  }
  std::vector<double> numbers;
  for (const py::handle& value : sequence) {
    numbers.push_back(real(py::reinterpret_borrow<py::object>(value), op, argument));
  }
  return numbers;
}

bool is_torchvision(const py::object& mode, const char* op) {
  const bool torchvision = mode.equal(py::str("torchvision"));
  VD_CHECK(torchvision || mode.equal(py::str("exact")), "[", op, "] mode: expected \"exact\" or \"torchvision\", got ",
           std::string(py::repr(mode)));
  return torchvision;
}

int threads(const py::object& num_threads, const char* op) {
  if (num_threads.is_none()) return 0;
  const std::int64_t n = integer(num_threads, op, "num_threads");
  VD_CHECK(n >= 1, "[", op, "] num_threads: expected None or at least 1, got ", n);
  return static_cast<int>(std::min<std::int64_t>(n, INT_MAX));
}

}  // namespace visdeploy::bind
