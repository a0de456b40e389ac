#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bind/bind.h"
#include "core/error.h"
#include "ops/box_iou.h"
#include "ops/nms.h"

namespace visdeploy::bind {
namespace {

py::object as_array(const std::vector<std::int64_t>& indices, const Array& like) {
  return like.like(py::array_t<std::int64_t>(static_cast<py::ssize_t>(indices.size()), indices.data()));
}

NmsOptions options_of(const char* op, const py::object& iou_threshold, const py::object& score_threshold,
                      const py::object& max_output) {
  return {real(iou_threshold, op, "iou_threshold"), unless_none(score_threshold, op, "score_threshold", real),
          unless_none(max_output, op, "max_output", integer)};
}

py::object nms(const py::object& boxes, const py::object& scores, const py::object& iou_threshold,
               const py::object& score_threshold, const py::object& max_output, const py::object& num_threads) {
  const Array b(boxes, "nms", "boxes"), s(scores, "nms", "scores");
  const NmsOptions options = options_of("nms", iou_threshold, score_threshold, max_output);
  threads(num_threads, "nms");
  std::vector<std::int64_t> kept;
  {
    const py::gil_scoped_release release;
    kept = visdeploy::nms(*b, *s, options);
  }
  return as_array(kept, b);
}

py::object batched_nms(const py::object& boxes, const py::object& scores, const py::object& labels,
                       const py::object& iou_threshold, const py::object& mode, const py::object& score_threshold,
                       const py::object& max_output, const py::object& num_threads) {
  const Array b(boxes, "batched_nms", "boxes"), s(scores, "batched_nms", "scores"), l(labels, "batched_nms", "labels");
  const NmsOptions options = options_of("batched_nms", iou_threshold, score_threshold, max_output);
  const bool as_torchvision = is_torchvision(mode, "batched_nms");
  const int n = threads(num_threads, "batched_nms");
  std::vector<std::int64_t> kept;
  {
    const py::gil_scoped_release release;
    kept = as_torchvision ? visdeploy::shifted_nms(*b, *s, *l, options, n)
                          : visdeploy::batched_nms(*b, *s, *l, options, n);
  }
  return as_array(kept, b);
}

py::object box_iou(const py::object& a, const py::object& b, const py::object& num_threads) {
  const Array rows(a, "box_iou", "a"), columns(b, "box_iou", "b");
  const int n = threads(num_threads, "box_iou");
  check_box_iou(*rows, *columns);
  const std::vector<std::int64_t> shape{rows->shape[0], columns->shape[0]};
  py::array out = rows->dtype == DType::kFloat32 ? py::array(py::array_t<float>(shape)) : py::array_t<double>(shape);
  void* data = out.mutable_data();
  {
    const py::gil_scoped_release release;
    visdeploy::box_iou(*rows, *columns, data, n);
  }
  return rows.like(out);
}

}  // namespace

void register_nms(py::module_& module) {
  module.def("nms", &nms, py::arg("boxes"), py::arg("scores"), py::arg("iou_threshold"), py::arg("score_threshold"),
             py::arg("max_output"), py::arg("num_threads"));
  module.def("box_iou", &box_iou, py::arg("a"), py::arg("b"), py::arg("num_threads"));
  module.def("batched_nms", &batched_nms, py::arg("boxes"), py::arg("scores"), py::arg("labels"),
             py::arg("iou_threshold"), py::arg("mode"), py::arg("score_threshold"), py::arg("max_output"),
             py::arg("num_threads"));
}

}  // namespace visdeploy::bind
