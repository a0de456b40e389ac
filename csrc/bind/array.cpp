#include <algorithm>
#include <climits>
#include <memory>
#include <utility>

#include "bind/bind.h"
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
  throw InputError(message("[", op, "] ", argument, ": expected an array in CPU memory; its DLPack export says: ",
                           why.substr(0, why.find('\n'))));
}

}  // namespace

Array::Array(py::object value, const char* op, const char* argument) : value_(std::move(value)) {
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
  if (const dlpack::ExchangeApi* api = exchange_api(type)) {
    dlpack::Tensor tensor{};
    if (api->tensor_from_object(value_.ptr(), &tensor) != 0) refuse_export(op, argument);
    VD_CHECK(tensor.device_type == dlpack::kCpu, "[", op, "] ", argument,
             ": expected an array in CPU memory, got one on another device; move it with .cpu()");
    kept_ = value_;
    tensor_ = view(tensor);
    VD_CHECK(tensor_.data || tensor_.size() == 0, "[", op, "] ", argument, ": expected an array with data, got a ",
             Py_TYPE(value_.ptr())->tp_name, " of shape ", tensor_.shape_text(), " that has none");
    return;
  }
  const py::tuple device = value_.attr("__dlpack_device__")();
  VD_CHECK(device[0].cast<int>() == dlpack::kCpu, "[", op, "] ", argument,
           ": expected an array in CPU memory, got one on another device");
  const py::object from_dlpack = py::module_::import("numpy").attr("from_dlpack");
  kept_ = py::reinterpret_steal<py::object>(PyObject_CallOneArg(from_dlpack.ptr(), value_.ptr()));
  if (!kept_) refuse_export(op, argument);
  tensor_ = view(py::reinterpret_borrow<py::array>(kept_));
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
  const std::string name = py::type::handle_of(value_).attr("__module__").cast<std::string>();
  const py::module_ module = py::module_::import(name.substr(0, name.find('.')).c_str());
  // A framework that cannot be asked gets what every framework reads.
  return py::hasattr(module, "from_dlpack") ? module.attr("from_dlpack")(result) : py::object(result);
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
