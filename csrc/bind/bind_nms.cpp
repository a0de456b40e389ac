#include <algorithm>
#include <vector>

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

// The indices that an op keeps of `boxes`, which are checked. on_cpu() returns them; on_device(IndicesOut) only puts
// that on the stream, and they are waited for unless the caller lends arrays.
template <class OnCpu, class OnDevice>
py::object indices(const char* op, const Array& boxes, const py::object& out, const OnCpu& on_cpu,
                   const OnDevice& on_device) {
  const std::vector<py::object> lent = outputs(out, 2, boxes, op);
  if (!boxes->cuda) {
    std::vector<std::int64_t> kept;
    {
      const py::gil_scoped_release release;
      kept = on_cpu();
    }
    return as_array(kept, boxes);
  }
  const std::int64_t room = out.is_none() ? boxes->shape[0] : -1;
  Output kept(boxes, {room}, DType::kInt64, lent[0], op), count(boxes, {1}, DType::kInt64, lent[1], op);
  std::int64_t n = 0;
  {
    const py::gil_scoped_release release;
    on_device({kept.data<std::int64_t>(), kept.shape()[0], count.data<std::int64_t>()});
    if (out.is_none()) copy_to_host(*boxes->cuda, count.data<std::int64_t>(), sizeof(n), &n);
  }
  return out.is_none() ? kept.take_first(n) : out;
}

py::object nms(const py::object& boxes, const py::object& scores, const py::object& iou_threshold,
               const py::object& score_threshold, const py::object& max_output, const py::object& num_threads,
               const py::object& out) {
  const Array b(boxes, "nms", "boxes"), s(scores, "nms", "scores");
  const NmsOptions options = options_of("nms", iou_threshold, score_threshold, max_output);
  threads(num_threads, "nms");
  if (b->cuda) check_nms("nms", *b, *s, options);  // before room is taken for the answer
  return indices(
      "nms", b, out, [&] { return visdeploy::nms(*b, *s, options); },
      [&](const IndicesOut& to) { visdeploy::nms(*b, *s, options, to); });
}

py::object batched_nms(const py::object& boxes, const py::object& scores, const py::object& labels,
                       const py::object& iou_threshold, const py::object& mode, const py::object& score_threshold,
                       const py::object& max_output, const py::object& num_threads, const py::object& out) {
  const Array b(boxes, "batched_nms", "boxes"), s(scores, "batched_nms", "scores"), l(labels, "batched_nms", "labels");
  const NmsOptions options = options_of("batched_nms", iou_threshold, score_threshold, max_output);
  const bool as_torchvision = is_torchvision(mode, "batched_nms");
  const int n = threads(num_threads, "batched_nms");
  if (b->cuda) check_nms("batched_nms", *b, *s, options);  // before room is taken for the answer
  return indices(
      "batched_nms", b, out,
      [&] {
        return as_torchvision ? visdeploy::shifted_nms(*b, *s, *l, options, n)
                              : visdeploy::batched_nms(*b, *s, *l, options, n);
      },
      [&](const IndicesOut& to) {
        as_torchvision ? visdeploy::shifted_nms(*b, *s, *l, options, to)
                       : visdeploy::batched_nms(*b, *s, *l, options, to);
      });
}

py::object box_iou(const py::object& a, const py::object& b, const py::object& num_threads, const py::object& out) {
  const Array rows(a, "box_iou", "a"), columns(b, "box_iou", "b");
  const int n = threads(num_threads, "box_iou");
  check_box_iou(*rows, *columns);
  Output result(rows, {rows->shape[0], columns->shape[0]}, rows->dtype, outputs(out, 1, rows, "box_iou")[0], "box_iou");
  {
    const py::gil_scoped_release release;
    visdeploy::box_iou(*rows, *columns, result.data<void>(), n);
  }
  return result.take();
}

}  // namespace

void register_nms(py::module_& module) {
  module.def("nms", &nms, py::arg("boxes"), py::arg("scores"), py::arg("iou_threshold"), py::arg("score_threshold"),
             py::arg("max_output"), py::arg("num_threads"), py::arg("out"));
  module.def("box_iou", &box_iou, py::arg("a"), py::arg("b"), py::arg("num_threads"), py::arg("out"));
  module.def("batched_nms", &batched_nms, py::arg("boxes"), py::arg("scores"), py::arg("labels"),
             py::arg("iou_threshold"), py::arg("mode"), py::arg("score_threshold"), py::arg("max_output"),
             py::arg("num_threads"), py::arg("out"));
}

}  // namespace visdeploy::bind
