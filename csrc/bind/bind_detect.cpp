#include <pybind11/stl.h>

#include <algorithm>
#include <string>

#include "bind/bind.h"
#include "core/error.h"
#include "ops/detect.h"

namespace visdeploy::bind {
namespace {

template <class T>
py::object to_python(const Array& like, const std::vector<T>& values, const std::vector<std::int64_t>& shape) {
  py::array_t<T> out(shape);
  std::copy(values.begin(), values.end(), out.mutable_data());
  return like.like(out);
}

py::list detect(const py::object& logits, const py::object& offsets, const py::object& anchors,
                const py::object& image_size, const py::object& weights, const py::object& score_threshold,
                const py::object& iou_threshold, const py::object& top_k, const py::object& max_det,
                const py::object& mode, const py::object& num_threads) {
  const Array rows(logits, "detect", "logits"), deltas(offsets, "detect", "offsets"), at(anchors, "detect", "anchors");
  const BoxCoder coder = box_coder("detect", std::nullopt, reals(weights, "detect", "weights"));
  const std::vector<double> size = reals(image_size, "detect", "image_size");
  VD_CHECK(size.size() == 2, "[detect] image_size: expected (H, W), got ", size.size(), " numbers");
  const DetectOptions options{{size[0], size[1]},
                              real(score_threshold, "detect", "score_threshold"),
                              real(iou_threshold, "detect", "iou_threshold"),
                              integer(top_k, "detect", "top_k"),
                              integer(max_det, "detect", "max_det"),
                              is_torchvision(mode, "detect")};
  const int n = threads(num_threads, "detect");
  std::vector<Detected> found;
  {
    const py::gil_scoped_release release;
    found = visdeploy::detect(*rows, *deltas, *at, coder, options, n);
  }
  py::list results;
  for (const Detected& one : found) {
    const auto count = static_cast<std::int64_t>(one.scores.size());
    results.append(py::make_tuple(to_python(rows, one.boxes, {count, 4}), to_python(rows, one.scores, {count}),
                                  to_python(rows, one.labels, {count})));
  }
  return results;
}

}  // namespace

void register_detect(py::module_& module) {
  module.def("detect", &detect, py::arg("logits"), py::arg("offsets"), py::arg("anchors"), py::arg("image_size"),
             py::arg("weights"), py::arg("score_threshold"), py::arg("iou_threshold"), py::arg("top_k"),
             py::arg("max_det"), py::arg("mode"), py::arg("num_threads"));
}

}  // namespace visdeploy::bind
