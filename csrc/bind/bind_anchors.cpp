#include <pybind11/stl.h>

#include "bind/bind.h"
#include "core/error.h"
#include "ops/boxes.h"
#include "ops/multibox_detection.h"
#include "ops/multibox_target.h"

namespace visdeploy::bind {
namespace {

BoxCoder coder_of(const char* op, const py::object& variances, const py::object& weights) {
  return box_coder(op, unless_none(variances, op, "variances", reals), unless_none(weights, op, "weights", reals));
}

py::object decode_boxes(const py::object& offsets, const py::object& anchors, const py::object& variances,
                        const py::object& weights, const py::object& clip, const py::object& num_threads,
                        const py::object& out) {
  const Array from(offsets, "decode_boxes", "offsets"), at(anchors, "decode_boxes", "anchors");
  const BoxCoder coder = coder_of("decode_boxes", variances, weights);
  const auto size = unless_none(clip, "decode_boxes", "clip", reals);
  VD_CHECK(!size || size->size() == 2, "[decode_boxes] clip: expected (H, W), got ", size ? size->size() : 0,
           " numbers");
  const ClipSize limits = size ? ClipSize({(*size)[0], (*size)[1]}) : std::nullopt;
  const int n = threads(num_threads, "decode_boxes");
  Output result(from, from->shape, DType::kFloat32, outputs(out, 1, from, "decode_boxes")[0], "decode_boxes");
  {
    const py::gil_scoped_release release;
    visdeploy::decode_boxes(*from, *at, coder, limits, result.data<float>(), n);
  }
  return result.take();
}

py::object encode_boxes(const py::object& boxes, const py::object& anchors, const py::object& variances,
                        const py::object& weights, const py::object& num_threads, const py::object& out) {
  const Array from(boxes, "encode_boxes", "boxes"), at(anchors, "encode_boxes", "anchors");
  const BoxCoder coder = coder_of("encode_boxes", variances, weights);
  const int n = threads(num_threads, "encode_boxes");
  Output result(from, from->shape, DType::kFloat32, outputs(out, 1, from, "encode_boxes")[0], "encode_boxes");
  {
    const py::gil_scoped_release release;
    visdeploy::encode_boxes(*from, *at, coder, result.data<float>(), n);
  }
  return result.take();
}

// The shape that a wrong argument would give does not matter: the op refuses it.
std::int64_t side(const Array& array, int axis) {
  return axis >= 0 && axis < array->rank() ? array->shape[static_cast<std::size_t>(axis)] : 0;
}

py::tuple multibox_target(const py::object& anchors, const py::object& labels, bool skip_padding,
                          const py::object& num_threads) {
  const Array at(anchors, "multibox_target", "anchors"), rows(labels, "multibox_target", "labels");
  const int threads_wanted = threads(num_threads, "multibox_target");
  const std::int64_t images = side(rows, 0), n = side(at, at->rank() - 2);
  Output offsets(rows, {images, 4 * n}, DType::kFloat32), mask(rows, {images, 4 * n}, DType::kFloat32);
  Output classes(rows, {images, n}, DType::kInt64);
  const MultiboxTarget out{offsets.data<float>(), mask.data<float>(), classes.data<std::int64_t>()};
  {
    const py::gil_scoped_release release;
    visdeploy::multibox_target(*at, *rows, skip_padding, out, threads_wanted);
  }
  return py::make_tuple(offsets.take(), mask.take(), classes.take());
}

py::object multibox_detection(const py::object& cls_probs, const py::object& offsets, const py::object& anchors,
                              const py::object& nms_threshold, const py::object& pos_threshold,
                              const py::object& num_threads, const py::object& out) {
  const char* op = "multibox_detection";
  const Array probs(cls_probs, op, "cls_probs"), rows(offsets, op, "offsets"), at(anchors, op, "anchors");
  const double nms = real(nms_threshold, op, "nms_threshold"), pos = real(pos_threshold, op, "pos_threshold");
  const int n = threads(num_threads, op);
  Output result(probs, {side(probs, 0), side(probs, 2), 6}, DType::kFloat32, outputs(out, 1, probs, op)[0], op);
  {
    const py::gil_scoped_release release;
    visdeploy::multibox_detection(*probs, *rows, *at, nms, pos, result.data<float>(), n);
  }
  return result.take();
}

}  // namespace

void register_anchors(py::module_& module) {
  module.def("decode_boxes", &decode_boxes, py::arg("offsets"), py::arg("anchors"), py::arg("variances"),
             py::arg("weights"), py::arg("clip"), py::arg("num_threads"), py::arg("out"));
  module.def("encode_boxes", &encode_boxes, py::arg("boxes"), py::arg("anchors"), py::arg("variances"),
             py::arg("weights"), py::arg("num_threads"), py::arg("out"));
  module.def("multibox_target", &multibox_target, py::arg("anchors"), py::arg("labels"), py::arg("skip_padding"),
             py::arg("num_threads"));
  module.def("multibox_detection", &multibox_detection, py::arg("cls_probs"), py::arg("offsets"), py::arg("anchors"),
             py::arg("nms_threshold"), py::arg("pos_threshold"), py::arg("num_threads"), py::arg("out"));
}

}  // namespace visdeploy::bind
