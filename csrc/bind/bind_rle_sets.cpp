#include <pybind11/stl.h>

#include <cstring>
#include <optional>
#include <utility>

#include "bind/bind.h"
#include "bind/rle.h"
#include "core/error.h"
#include "ops/polygon.h"
#include "ops/rle_sets.h"

namespace visdeploy::bind {
namespace {

// The size of an image as two arguments.
struct Sides {
  std::int64_t height, width;

  Sides(const py::object& h, const py::object& w, const char* op) : height(side(h, op)), width(side(w, op)) {}

 private:
  static std::int64_t side(const py::object& value, const char* op) {
    const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!number) throw py::error_already_set();
    int overflow = 0;
    const std::int64_t result = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
    VD_CHECK(overflow == 0 && result >= 0, "[", op, "] h, w: expected numbers from 0 to 2147483647, got ",
             std::string(py::str(number)));
    return result;
  }
};

// Calls NumPy's asarray(object, float64), whose complaints about values become ours; a TypeError stays one.
py::array_t<double> as_doubles(const py::handle& object, const char* op, const char* argument) {
  if (py::isinstance<py::array_t<double>>(object)) return py::reinterpret_borrow<py::array_t<double>>(object);
  try {
    return py::module_::import("numpy").attr("asarray")(object, "float64");
  } catch (const py::error_already_set& raised) {
    if (!raised.matches(PyExc_ValueError) && !raised.matches(PyExc_OverflowError)) throw;
    throw InputError(message("[", op, "] ", argument, ": ", std::string(py::str(raised.value()))));
  }
}

// Of memory that need not be aligned.
double value_at(const double* place) {
  double value;
  std::memcpy(&value, place, sizeof(value));
  return value;
}

// Appends the numbers of a flat sequence, read as NumPy reads them, and says how many they are.
std::size_t read_numbers(const py::handle& object, const char* op, const char* argument, std::vector<double>& numbers) {
  const std::size_t first = numbers.size();
  if (PyList_CheckExact(object.ptr())) {
    const auto n = static_cast<std::size_t>(PyList_GET_SIZE(object.ptr()));
    // What is no plain number NumPy reads, or complains about.
    for (std::size_t i = 0; i < n; ++i) {
      PyObject* const item = PyList_GET_ITEM(object.ptr(), static_cast<Py_ssize_t>(i));
      if (PyFloat_CheckExact(item)) {
        numbers.push_back(PyFloat_AS_DOUBLE(item));
        continue;
      }
      if (!PyLong_CheckExact(item)) break;
      const double value = PyLong_AsDouble(item);
      if (PyErr_Occurred()) {
        PyErr_Clear();
        break;
      }
      numbers.push_back(value);
    }
    if (numbers.size() == first + n) return n;
    numbers.resize(first);
  }
  const py::array_t<double> array = as_doubles(object, op, argument);
  VD_CHECK(array.ndim() == 1, "[", op, "] ", argument, ": expected a flat list of numbers, got ", array.ndim(), "-D");
  for (py::ssize_t i = 0; i < array.shape(0); ++i) numbers.push_back(value_at(array.data(i)));
  return static_cast<std::size_t>(array.shape(0));
}

// Appends the boxes of an array (N, 4).
std::size_t read_boxes(const py::array_t<double>& boxes, const char* op, const char* argument,
                       std::vector<double>& numbers) {
  VD_CHECK(boxes.ndim() == 2 && boxes.shape(1) == 4, "[", op, "] ", argument,
           ": expected boxes of shape (N, 4), got shape ", std::string(py::str(boxes.attr("shape"))));
  for (py::ssize_t i = 0; i < boxes.shape(0); ++i) {
    for (py::ssize_t j = 0; j < 4; ++j) numbers.push_back(value_at(boxes.data(i, j)));
  }
  return static_cast<std::size_t>(boxes.shape(0));
}

bool has_length(const py::handle& object) {
  return py::isinstance<py::list>(object) || py::isinstance<py::tuple>(object) || py::isinstance<py::array>(object);
}

// One side of an iou: masks, or boxes.
struct Objects {
  std::optional<Runs> masks;
  std::vector<double> boxes;
  std::optional<Array> array;  // where the boxes came as one
  std::size_t n = 0;

  Objects(const py::object& object, const char* argument) {
    if (!py::isinstance<py::list>(object)) {
      array.emplace(object, "iou", argument);
      if ((*array)->shape.empty() || (*array)->shape[0] > 0) {
        n = read_boxes(as_doubles(object, "iou", argument), "iou", argument, boxes);
      }
      return;
    }
    // Not len(), which a subclass may answer as it likes.
    n = static_cast<std::size_t>(PyList_GET_SIZE(object.ptr()));
    if (n > 0 && py::isinstance<py::dict>(PyList_GET_ITEM(object.ptr(), 0))) {
      n = masks.emplace(Views(object).masks).size();
      return;
    }
    for (const py::handle& item : object) {
      if (!has_length(item) || py::len(item) != 4) {
        throw py::type_error(message("[iou] ", argument, ": expected RLEs, or boxes of four numbers each"));
      }
      read_numbers(item, "iou", argument, boxes);
    }
    VD_CHECK(boxes.size() == 4 * n, "[iou] ", argument, ": expected boxes of four numbers each");
  }

  bool are_boxes() const { return !boxes.empty(); }
};

py::object iou(const py::object& dt, const py::object& gt, const py::object& crowd, const py::object& num_threads) {
  const int threads_wanted = threads(num_threads, "iou");
  const Objects dts(dt, "dt"), gts(gt, "gt");
  std::vector<std::uint8_t> crowds;
  // An endless iterator would be read for ever.
  if (!PyList_CheckExact(crowd.ptr()) && !py::hasattr(crowd, "__len__")) {
    throw py::type_error(message("[iou] pyiscrowd: expected a list, got ", Py_TYPE(crowd.ptr())->tp_name));
  }
  for (const py::handle& item : crowd) {
    const int is_crowd = PyObject_IsTrue(item.ptr());
    if (is_crowd < 0) throw py::error_already_set();
    crowds.push_back(is_crowd > 0);
  }
  VD_CHECK(crowds.size() == gts.n, "[iou] pyiscrowd: expected one for each of the ", gts.n, " gt, got ", crowds.size());
  if (dts.n == 0 || gts.n == 0) return py::list();
  if (dts.are_boxes() != gts.are_boxes()) throw py::type_error("[iou] dt and gt: expected both RLEs or both boxes");
  const auto m = static_cast<std::int64_t>(dts.n), n = static_cast<std::int64_t>(gts.n);
  py::array_t<double, py::array::f_style> out({m, n});
  double* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    if (dts.are_boxes()) {
      visdeploy::iou(dts.boxes.data(), m, gts.boxes.data(), n, crowds.data(), data, threads_wanted);
    } else {
      visdeploy::iou(*dts.masks, *gts.masks, crowds.data(), data, threads_wanted);
    }
  }
  return dts.array ? dts.array->like(out) : out;
}

py::dict merge(const py::object& objects, bool intersect) {
  if (!py::isinstance<py::list>(objects) && !py::isinstance<py::tuple>(objects)) {
    throw py::type_error(message("[merge] expected a list of RLEs, got ", Py_TYPE(objects.ptr())->tp_name));
  }
  const Views views{py::list(objects)};
  Merged merged;
  {
    const py::gil_scoped_release release;
    merged = visdeploy::merge(Runs(views.masks), intersect);
  }
  return to_python(merged.counts, merged.height, merged.width);
}

// Draws each of n shapes, of which draw(i) gives the mask, as a list of RLEs.
template <class Draw>
py::list drawn(std::size_t n, Sides sides, Draw draw) {
  std::vector<std::string> counts(n);
  {
    const py::gil_scoped_release release;
    for (std::size_t i = 0; i < n; ++i) counts[i] = to_string(draw(i));
  }
  return to_python(counts, sides.height, sides.width);
}

py::list from_polygons(const py::object& polygons, Sides sides) {
  std::vector<double> numbers;
  std::vector<std::pair<std::size_t, std::size_t>> places;  // the first number of each, and its corners
  for (const py::handle& polygon : polygons) {
    const std::size_t first = numbers.size();
    places.emplace_back(first, read_numbers(polygon, "frPyObjects", "polygon", numbers) / 2);
  }
  return drawn(places.size(), sides, [&](std::size_t i) {
    const auto [first, corners] = places[i];
    return from_polygon(numbers.data() + first, static_cast<std::int64_t>(corners), sides.height, sides.width);
  });
}

py::list from_boxes(const py::object& boxes, Sides sides) {
  if (!py::isinstance<py::array>(boxes)) {
    throw py::type_error(message("[frPyObjects] boxes: expected an (N, 4) float64 array, got ",
                                 Py_TYPE(boxes.ptr())->tp_name, "; wrap them in np.array(..., np.float64)"));
  }
  VD_CHECK(py::isinstance<py::array_t<double>>(boxes), "[frPyObjects] boxes: expected float64, got ",
           std::string(py::str(boxes.attr("dtype"))), "; convert them with .astype(np.float64)");
  std::vector<double> numbers;
  const std::size_t n = read_boxes(boxes, "frPyObjects", "boxes", numbers);
  return drawn(n, sides, [&](std::size_t i) { return from_box(numbers.data() + 4 * i, sides.height, sides.width); });
}

py::dict from_uncompressed(const py::handle& object) {
  const py::object counts = object["counts"];
  VD_CHECK(!py::isinstance<py::bytes>(counts) && !py::isinstance<py::str>(counts),
           "[frPyObjects] counts: expected a list of numbers, got ", Py_TYPE(counts.ptr())->tp_name,
           "; such an RLE is compressed already");
  py::object kept;
  const Rle rle = parse(view(object, kept));
  return to_python(to_string(rle), rle.height, rle.width);
}

py::list from_uncompressed_list(const py::object& objects) {
  py::list list;
  for (const py::handle& object : objects) list.append(from_uncompressed(object));
  return list;
}

bool is_rle(const py::handle& object) {
  return py::isinstance<py::dict>(object) && object.contains("counts") && object.contains("size");
}

// In pycocotools' order, by which a list of four-element lists is boxes, and refused for not being an array.
py::object from_objects(const py::object& object, const py::object& h, const py::object& w) {
  const Sides sides(h, w, "frPyObjects");
  if (py::isinstance<py::array>(object)) return from_boxes(object, sides);
  if (is_rle(object)) return from_uncompressed(object);
  if (!py::isinstance<py::list>(object)) {
    throw py::type_error(
        message("[frPyObjects] expected an (N, 4) array of boxes, a list of polygons, or uncompressed "
                "RLEs, got ",
                Py_TYPE(object.ptr())->tp_name));
  }
  const py::list list = object;
  if (list.empty()) return list;
  const py::object first = list[0];
  const Py_ssize_t length = PyObject_Length(first.ptr());
  if (length < 0) {
    PyErr_Clear();
    throw py::type_error(message("[frPyObjects] expected a list of polygons or of uncompressed RLEs, got a list of ",
                                 Py_TYPE(first.ptr())->tp_name, "; a single polygon goes into a list of its own"));
  }
  if (length == 4) return from_boxes(object, sides);
  if (length > 4) return from_polygons(list, sides);
  if (is_rle(first)) return from_uncompressed_list(list);
  if (list.size() <= 4) {
    throw py::type_error(
        "[frPyObjects] expected polygons of at least three corners, x and y in turn, in one list each");
  }
  py::list one;
  one.append(list);
  return from_polygons(one, sides)[0];
}

}  // namespace

void register_rle_sets(py::module_& module) {
  module.def("iou", &iou, py::arg("dt"), py::arg("gt"), py::arg("crowd"), py::arg("num_threads"));
  module.def("merge", &merge, py::arg("rles"), py::arg("intersect"));
  module.def("from_objects", &from_objects, py::arg("object"), py::arg("h"), py::arg("w"));
  module.def(
      "from_polygons",
      [](const py::object& polygons, const py::object& h, const py::object& w) {
        return from_polygons(polygons, {h, w, "frPoly"});
      },
      py::arg("polygons"), py::arg("h"), py::arg("w"));
  module.def(
      "from_boxes",
      [](const py::object& boxes, const py::object& h, const py::object& w) {
        return from_boxes(boxes, {h, w, "frBbox"});
      },
      py::arg("boxes"), py::arg("h"), py::arg("w"));
  module.def(
      "from_uncompressed",
      [](const py::object& rles, const py::object& h, const py::object& w) {
        const Sides checked(h, w, "frUncompressedRLE");
        return from_uncompressed_list(rles);
      },
      py::arg("rles"), py::arg("h"), py::arg("w"));
}

}  // namespace visdeploy::bind
