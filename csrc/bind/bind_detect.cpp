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

// The most detections that an image can have, so that room for them is not wasted; wrong shapes are refused by the op.
std::int64_t most_detections(const Array& logits, const DetectOptions& options) {
  if (logits->rank() != 3 || options.top_k < 0 || options.max_det < 0) return 0;
  const std::int64_t of_each_class = std::min(logits->shape[1], options.top_k);
  if (of_each_class == 0) return 0;
  return logits->shape[2] - 1 <= options.max_det / of_each_class ? (logits->shape[2] - 1) * of_each_class
                                                                 : options.max_det;
}

py::object detect_on_device(const Array& logits, const Array& offsets, const Array& anchors, const BoxCoder& coder,
                            DetectOptions options, const py::object& out) {
  const std::int64_t images = logits->rank() > 0 ? logits->shape[0] : 0;
  if (out.is_none()) options.max_det = std::min(options.max_det, most_detections(logits, options));
  const std::int64_t rows = std::max<std::int64_t>(0, options.max_det);
  const std::vector<py::object> lent = outputs(out, 4, logits, "detect");
  Output boxes(logits, {images, rows, 4}, DType::kFloat32, lent[0], "detect");
  Output scores(logits, {images, rows}, DType::kFloat32, lent[1], "detect");
  Output labels(logits, {images, rows}, DType::kInt64, lent[2], "detect");
  Output counts(logits, {images}, DType::kInt64, lent[3], "detect");
  std::vector<std::int64_t> found(static_cast<std::size_t>(images));
  {
    const py::gil_scoped_release release;
    const DetectOut answer{boxes.data<float>(), scores.data<float>(), labels.data<std::int64_t>(),
                           counts.data<std::int64_t>()};
    visdeploy::detect(*logits, *offsets, *anchors, coder, options, answer);
    if (out.is_none() && images > 0) {
      copy_to_host(*logits->cuda, answer.counts, found.size() * sizeof(std::int64_t), found.data());
    }
  }
  if (!out.is_none()) return out;
  const auto b = boxes.take_first_of_each(found), s = scores.take_first_of_each(found);
  const auto l = labels.take_first_of_each(found);
  py::list results;
  for (std::size_t i = 0; i < found.size(); ++i) results.append(py::make_tuple(b[i], s[i], l[i]));
  return results;
}

py::object detect(const py::object& logits, const py::object& offsets, const py::object& anchors,
                  const py::object& image_size, const py::object& weights, const py::object& score_threshold,
                  const py::object& iou_threshold, const py::object& top_k, const py::object& max_det,
                  const py::object& mode, const py::object& num_threads, const py::object& out) {
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
  if (rows->cuda) return detect_on_device(rows, deltas, at, coder, options, out);
  outputs(out, 4, rows, "detect");  // refuses it
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
             py::arg("max_det"), py::arg("mode"), py::arg("num_threads"), py::arg("out"));
}

}  // namespace visdeploy::bind
