#include <pybind11/stl.h>

#include "bind/bind.h"
#include "ops/boxes.h"
#include "ops/multibox_detection.h"
#include "ops/multibox_target.h"

namespace visdeploy::bind {
namespace {

using Numbers = std::optional<std::vector<double>>;

py::object decode_boxes(const py::object& offsets, const py::object& anchors, const Numbers& variances,
                        const Numbers& weights, const ClipSize& clip, const py::object& num_threads) {
  const Array from(offsets, "decode_boxes", "offsets"), at(anchors, "decode_boxes", "anchors");
  const BoxCoder coder = box_coder("decode_boxes", variances, weights);
  const int n = threads(num_threads, "decode_boxes");
  py::array_t<float> out(from->shape);
  float* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::decode_boxes(*from, *at, coder, clip, data, n);
  }
  return from.like(out);
}

py::object encode_boxes(const py::object& boxes, const py::object& anchors, const Numbers& variances,
                        const Numbers& weights, const py::object& num_threads) {
  const Array from(boxes, "encode_boxes", "boxes"), at(anchors, "encode_boxes", "anchors");
  const BoxCoder coder = box_coder("encode_boxes", variances, weights);
  const int n = threads(num_threads, "encode_boxes");
  py::array_t<float> out(from->shape);
  float* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::encode_boxes(*from, *at, coder, data, n);
  }
  return from.like(out);
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
  py::array_t<float> offsets({images, 4 * n}), mask({images, 4 * n});
  py::array_t<std::int64_t> classes({images, n});
  const MultiboxTarget out{offsets.mutable_data(), mask.mutable_data(), classes.mutable_data()};
  {
    const py::gil_scoped_release release;
    visdeploy::multibox_target(*at, *rows, skip_padding, out, threads_wanted);
  }
  return py::make_tuple(rows.like(offsets), rows.like(mask), rows.like(classes));
}

py::object multibox_detection(const py::object& cls_probs, const py::object& offsets, const py::object& anchors,
                              double nms_threshold, double pos_threshold, const py::object& num_threads) {
  const char* op = "multibox_detection";
  const Array probs(cls_probs, op, "cls_probs"), rows(offsets, op, "offsets"), at(anchors, op, "anchors");
  const int n = threads(num_threads, op);
  py::array_t<float> out({side(probs, 0), side(probs, 2), std::int64_t{6}});
  float* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::multibox_detection(*probs, *rows, *at, nms_threshold, pos_threshold, data, n);
  }
  return probs.like(out);
}

}  // namespace

void register_anchors(py::module_& module) {
  module.def("decode_boxes", &decode_boxes, py::arg("offsets"), py::arg("anchors"), py::arg("variances"),
             py::arg("weights"), py::arg("clip"), py::arg("num_threads"));
  module.def("encode_boxes", &encode_boxes, py::arg("boxes"), py::arg("anchors"), py::arg("variances"),
             py::arg("weights"), py::arg("num_threads"));
  module.def("multibox_target", &multibox_target, py::arg("anchors"), py::arg("labels"), py::arg("skip_padding"),
             py::arg("num_threads"));
  module.def("multibox_detection", &multibox_detection, py::arg("cls_probs"), py::arg("offsets"), py::arg("anchors"),
             py::arg("nms_threshold"), py::arg("pos_threshold"), py::arg("num_threads"));
}

}  // namespace visdeploy::bind
