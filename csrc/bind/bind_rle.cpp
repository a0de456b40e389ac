#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "bind/bind.h"
#include "bind/rle.h"
#include "core/error.h"
#include "ops/rle.h"
#include "ops/semantic_map.h"

namespace visdeploy::bind {
namespace {

// Strings made once.
PyObject* size_key() {
  static PyObject* const key = PyUnicode_InternFromString("size");
  return key;
}

PyObject* counts_key() {
  static PyObject* const key = PyUnicode_InternFromString("counts");
  return key;
}

py::object item(const py::handle& dict, PyObject* key) {
  const auto value = py::reinterpret_steal<py::object>(PyObject_GetItem(dict.ptr(), key));
  if (!value) throw py::error_already_set();
  return value;
}

std::int64_t integer(PyObject* value, const char* what) {
  py::object number;
  // Which mostly it is.
  if (!PyLong_CheckExact(value)) {
    number = py::reinterpret_steal<py::object>(PyNumber_Long(value));
    if (!number) throw py::error_already_set();
    value = number.ptr();
  }
  int overflow = 0;
  const std::int64_t result = PyLong_AsLongLongAndOverflow(value, &overflow);
  VD_CHECK(overflow == 0, "[rle] ", what, ": expected a number of at most 64 bits");
  return result;
}

std::int64_t side(const py::object& size, Py_ssize_t i) {
  const auto number = py::reinterpret_steal<py::object>(PySequence_GetItem(size.ptr(), i));
  if (!number) throw py::error_already_set();
  return integer(number.ptr(), "size");
}

}  // namespace

Encoded view(const py::handle& object, py::object& counts) {
  if (!py::isinstance<py::dict>(object)) {
    throw py::type_error(
        message("[rle] expected a dict with 'size' and 'counts', got ", Py_TYPE(object.ptr())->tp_name));
  }
  const py::object size = item(object, size_key());
  counts = item(object, counts_key());
  VD_CHECK(py::isinstance<py::sequence>(size) && py::len(size) == 2, "[rle] size: expected [height, width]");
  const std::int64_t height = side(size, 0), width = side(size, 1);
  if (PyBytes_Check(counts.ptr())) {
    const auto length = static_cast<std::size_t>(PyBytes_GET_SIZE(counts.ptr()));
    return {height, width, std::string_view(PyBytes_AS_STRING(counts.ptr()), length)};
  }
  if (py::isinstance<py::str>(counts)) return {height, width, counts.cast<std::string_view>()};
  if (!py::isinstance<py::list>(counts) && !py::isinstance<py::tuple>(counts) && !py::isinstance<py::array>(counts)) {
    throw py::type_error(
        message("[rle] counts: expected bytes, str or a list of numbers, got ", Py_TYPE(counts.ptr())->tp_name));
  }
  std::vector<std::int64_t> numbers;
  for (const py::handle& count : counts) numbers.push_back(integer(count.ptr(), "counts"));
  return {height, width, std::move(numbers)};
}

Views::Views(const py::object& object) : listed(py::isinstance<py::list>(object)) {
  const auto n = static_cast<std::size_t>(listed ? PyList_GET_SIZE(object.ptr()) : 1);
  masks.reserve(n);
  kept.reserve(n);
  if (listed) {
    for (const py::handle& mask : object) masks.push_back(view(mask, kept.emplace_back()));
  } else {
    masks.push_back(view(object, kept.emplace_back()));
  }
}

py::dict to_python(const std::string& counts, std::int64_t height, std::int64_t width) {
  py::list size(2);
  size[0] = height;
  size[1] = width;
  py::dict dict;
  const py::bytes text(counts);
  if (PyDict_SetItem(dict.ptr(), size_key(), size.ptr()) != 0 ||
      PyDict_SetItem(dict.ptr(), counts_key(), text.ptr()) != 0) {
    throw py::error_already_set();
  }
  return dict;
}

py::list to_python(const std::vector<std::string>& counts, std::int64_t height, std::int64_t width) {
  py::list list(counts.size());
  for (std::size_t i = 0; i < counts.size(); ++i) list[i] = to_python(counts[i], height, width);
  return list;
}

namespace {

// A 2-D array is one mask, and has one answer.
py::object one_or_all(const std::vector<std::string>& texts, std::int64_t height, std::int64_t width, int rank) {
  if (rank == 2) return to_python(texts[0], height, width);
  return to_python(texts, height, width);
}

// Where the texts of n masks go on a device: lent[i] has room for any text, lent[i + 1] for their offsets.
class Texts {
 public:
  Texts(const Array& like, std::int64_t n, const std::vector<py::object>& lent, std::size_t i, const char* op)
      : text_(like, {-1}, DType::kUint8, lent[i], op), offsets_(like, {n + 1}, DType::kInt64, lent[i + 1], op) {}

  TextsOut out() { return {text_.data<char>(), text_.shape()[0], offsets_.data<std::int64_t>()}; }

 private:
  Output text_, offsets_;
};

py::object encode(const py::object& mask, int axis, const py::object& num_threads, const py::object& out) {
  const Array array(mask, "encode", "mask");
  const int n = threads(num_threads, "encode");
  if (!out.is_none()) {
    const std::vector<py::object> lent = outputs(out, 2, array, "encode");
    const int rank = array->rank();
    Texts result(array, rank == 3 ? array->shape[axis == 0 ? 0 : 2] : 1, lent, 0, "encode");
    {
      const py::gil_scoped_release release;
      visdeploy::encode(*array, axis, result.out());
    }
    return out;
  }
  std::vector<std::string> texts;
  {
    const py::gil_scoped_release release;
    texts = visdeploy::encode(*array, axis, n);
  }
  const std::size_t first = array->rank() == 3 && axis == 0 ? 1 : 0;
  return one_or_all(texts, array->shape[first], array->shape[first + 1], array->rank());
}

py::object encode_logits(const py::object& logits, std::optional<Size> size, float threshold, std::optional<Size> valid,
                         const py::object& num_threads, const py::object& out) {
  const Array array(logits, "encode_logits", "logits");
  const int n = threads(num_threads, "encode_logits");
  const LogitsOptions options{size, valid, threshold};
  if (!out.is_none()) {
    const std::vector<py::object> lent = outputs(out, 2, array, "encode_logits");
    Texts result(array, array->rank() == 3 ? array->shape[0] : 1, lent, 0, "encode_logits");
    {
      const py::gil_scoped_release release;
      visdeploy::encode_logits(*array, options, result.out());
    }
    return out;
  }
  std::vector<std::string> texts;
  {
    const py::gil_scoped_release release;
    texts = visdeploy::encode_logits(*array, options, n);
  }
  const auto last = array->shape.rbegin();
  const auto [height, width] = size ? *size : valid ? *valid : Size{last[1], last[0]};
  return one_or_all(texts, height, width, array->rank());
}

py::array decode(const py::object& object, bool rows, int axis, const py::object& num_threads) {
  const int threads_wanted = threads(num_threads, "decode");
  const Views views(object);
  const std::vector<Encoded>& masks = views.masks;
  check_decode(masks);
  const auto n = static_cast<std::int64_t>(masks.size());
  const std::int64_t height = masks.empty() ? 0 : masks[0].height, width = masks.empty() ? 0 : masks[0].width;
  std::vector<std::int64_t> shape{height, width}, strides{rows ? width : 1, rows ? 1 : height};
  if (views.listed) {
    const std::ptrdiff_t items = axis == 0 ? 0 : 2;
    shape.insert(shape.begin() + items, n);
    strides.insert(strides.begin() + items, height * width);
  }
  // Not NumPy's zeros: every byte gets written here, once.
  py::array_t<std::uint8_t> out(shape, strides);
  std::uint8_t* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::decode(masks, rows ? Order::kRow : Order::kColumn, data, threads_wanted);
  }
  return out;
}

py::object area(const py::object& object) {
  const Views views(object);
  if (!views.listed) return py::int_(visdeploy::area(views.masks[0]));
  py::array_t<std::uint64_t> out(static_cast<py::ssize_t>(views.masks.size()));
  std::uint64_t* areas = out.mutable_data();
  for (const Encoded& mask : views.masks) *areas++ = static_cast<std::uint64_t>(visdeploy::area(mask));
  return out;
}

py::array to_bbox(const py::object& object) {
  const Views views(object);
  std::vector<py::ssize_t> shape{4};
  if (views.listed) shape.insert(shape.begin(), static_cast<py::ssize_t>(views.masks.size()));
  py::array_t<double> out(shape);
  double* box = out.mutable_data();
  for (const Encoded& mask : views.masks) {
    visdeploy::to_bbox(mask, box);
    box += 4;
  }
  return out;
}

std::string to_kaggle(const py::object& object, bool rows, std::int64_t base) {
  py::object kept;
  const Rle rle = parse(view(object, kept));
  const py::gil_scoped_release release;
  return visdeploy::to_kaggle(rle, rows ? Order::kRow : Order::kColumn, base);
}

py::dict from_kaggle(const std::string& text, Size shape, bool rows, std::int64_t base) {
  std::string counts;
  {
    const py::gil_scoped_release release;
    counts =
        to_string(visdeploy::from_kaggle(text, shape.first, shape.second, rows ? Order::kRow : Order::kColumn, base));
  }
  return to_python(counts, shape.first, shape.second);
}

py::object semantic_map(const py::object& logits, Size size, std::optional<Size> valid, const py::object& out) {
  const Array array(logits, "semantic_map", "logits");
  check_size("semantic_map", size);
  const std::int64_t classes =
      std::min<std::int64_t>(array->rank() == 3 ? array->shape[0] : 0, 255);  // more are refused
  const std::vector<py::object> lent = outputs(out, 4, array, "semantic_map");
  Output map(array, {size.first, size.second}, DType::kUint8, lent[0], "semantic_map");
  Output areas(array, {classes}, DType::kInt64, lent[1], "semantic_map");
  if (!out.is_none()) {
    Texts result(array, classes, lent, 2, "semantic_map");
    {
      const py::gil_scoped_release release;
      visdeploy::semantic_map(*array, size, valid, map.data<std::uint8_t>(), areas.data<std::int64_t>(), result.out());
    }
    return out;
  }
  std::vector<std::string> texts;
  {
    const py::gil_scoped_release release;
    texts = visdeploy::semantic_map(*array, size, valid, map.data<std::uint8_t>(), areas.data<std::int64_t>());
  }
  return py::make_tuple(map.take(), areas.take(), to_python(texts, size.first, size.second));
}

}  // namespace

void register_rle(py::module_& module) {
  module.def("encode", &encode, py::arg("mask"), py::arg("axis"), py::arg("num_threads"), py::arg("out"));
  module.def("encode_logits", &encode_logits, py::arg("logits"), py::arg("size"), py::arg("threshold"),
             py::arg("valid"), py::arg("num_threads"), py::arg("out"));
  module.def("decode", &decode, py::arg("rle"), py::arg("rows"), py::arg("axis"), py::arg("num_threads"));
  module.def("area", &area, py::arg("rle"));
  module.def("to_bbox", &to_bbox, py::arg("rle"));
  module.def("to_kaggle", &to_kaggle, py::arg("rle"), py::arg("rows"), py::arg("base"));
  module.def("from_kaggle", &from_kaggle, py::arg("text"), py::arg("shape"), py::arg("rows"), py::arg("base"));
  module.def("semantic_map", &semantic_map, py::arg("logits"), py::arg("size"), py::arg("valid"), py::arg("out"));
}

}  // namespace visdeploy::bind
