#include <pybind11/stl.h>

#include <string>
#include <utility>

#include "bind/bind.h"
#include "core/error.h"
#include "ops/letterbox.h"

namespace visdeploy::bind {
namespace {

Interpolation interpolation_of(const std::string& name) {
  if (name == "nearest") return Interpolation::kNearest;
  if (name == "bilinear") return Interpolation::kBilinear;
  VD_CHECK(name == "area", R"([letterbox] interpolation: expected "nearest", "bilinear" or "area", got ")", name, '"');
  return Interpolation::kArea;
}

py::object letterbox(const py::object& image, std::pair<std::int64_t, std::int64_t> valid,
                     std::pair<std::int64_t, std::int64_t> size, const std::string& interpolation,
                     const py::object& pad_value, const std::string& dtype, const py::object& out) {
  const Array array(image, "letterbox", "image");
  VD_CHECK(dtype == "uint8" || dtype == "float32", R"([letterbox] dtype: expected "uint8" or "float32", got ")", dtype,
           '"');
  const Letterbox to{valid.first,
                     valid.second,
                     size.first,
                     size.second,
                     interpolation_of(interpolation),
                     integer(pad_value, "letterbox", "pad_value")};
  check_letterbox(*array, to);
  const bool is_float = dtype == "float32";
  Output result(array, {to.height, to.width, 3}, is_float ? DType::kFloat32 : DType::kUint8,
                outputs(out, 1, array, "letterbox")[0], "letterbox");
  {
    const py::gil_scoped_release release;
    is_float ? visdeploy::letterbox(*array, to, result.data<float>())
             : visdeploy::letterbox(*array, to, result.data<std::uint8_t>());
  }
  return result.take();
}

}  // namespace

void register_letterbox(py::module_& module) {
  module.def("letterbox", &letterbox, py::arg("image"), py::arg("valid"), py::arg("size"), py::arg("interpolation"),
             py::arg("pad_value"), py::arg("dtype"), py::arg("out"));
}

}  // namespace visdeploy::bind
