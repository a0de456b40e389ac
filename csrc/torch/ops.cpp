// torch.ops.visdeploy: the ops inside of graphs. pysdk/visdeploy/torch_ops.py is their contract.
#include <optional>
#include <tuple>
#include <utility>

#include "ops/boxes.h"
#include "ops/detect.h"
#include "ops/letterbox.h"
#include "ops/multibox_detection.h"
#include "ops/nms.h"
#include "ops/semantic_map.h"
#include "torch/tensors.h"

namespace visdeploy::graph {
namespace {

using Ints = std::vector<std::int64_t>;
using Floats = std::vector<double>;

// How many threads an op takes is its own choice.
constexpr int kThreads = 0;

Size size_from(const char* op, const char* argument, const Ints& values) {
  VD_CHECK(values.size() == 2, "[", op, "] ", argument, ": expected (H, W), got ", values.size(), " numbers");
  return {values[0], values[1]};
}

// The shape that a wrong argument would give does not matter: the op refuses it.
std::int64_t side(const Tensor& tensor, std::size_t axis) {
  return axis < tensor.shape.size() ? tensor.shape[axis] : 0;
}

// Texts one after the other, and where each begins.
std::tuple<Handle, Handle> joined(const char* op, const std::vector<std::string>& texts) {
  Ints offsets{0};
  for (const std::string& text : texts) offsets.push_back(offsets.back() + static_cast<std::int64_t>(text.size()));
  Handle bytes = make<std::uint8_t>(op, Ints{offsets.back()});
  std::uint8_t* out = data<std::uint8_t>(bytes);
  for (const std::string& text : texts) out = std::copy(text.begin(), text.end(), out);
  return {std::move(bytes), make(op, offsets)};
}

Handle nms(Handle boxes, Handle scores, double iou_threshold) {
  const NmsOptions options{iou_threshold, std::nullopt, std::nullopt};
  return make("nms", visdeploy::nms(view(boxes, "nms", "boxes"), view(scores, "nms", "scores"), options));
}

bool is_torchvision(const char* op, const std::string& mode) {
  VD_CHECK(mode == "exact" || mode == "torchvision", "[", op, R"(] mode: expected "exact" or "torchvision", got ")",
           mode, '"');
  return mode == "torchvision";
}

Handle batched_nms(Handle boxes, Handle scores, Handle labels, double iou_threshold, std::string mode) {
  const char* op = "batched_nms";
  const NmsOptions options{iou_threshold, std::nullopt, std::nullopt};
  const Tensor rows = view(boxes, op, "boxes"), values = view(scores, op, "scores"), of = view(labels, op, "labels");
  return make(op, is_torchvision(op, mode) ? visdeploy::shifted_nms(rows, values, of, options, kThreads)
                                           : visdeploy::batched_nms(rows, values, of, options, kThreads));
}

Handle decode_boxes(Handle offsets, Handle anchors, std::optional<Floats> variances, std::optional<Floats> weights,
                    std::optional<Floats> clip) {
  const char* op = "decode_boxes";
  const Tensor from = view(offsets, op, "offsets"), at = view(anchors, op, "anchors");
  const BoxCoder coder = box_coder(op, variances, weights);
  VD_CHECK(!clip || clip->size() == 2, "[decode_boxes] clip: expected (H, W), got ", clip ? clip->size() : 0,
           " numbers");
  Handle boxes = make<float>(op, from.shape);
  visdeploy::decode_boxes(from, at, coder, clip ? ClipSize({(*clip)[0], (*clip)[1]}) : std::nullopt, data<float>(boxes),
                          kThreads);
  return boxes;
}

std::tuple<Handle, Handle, Handle, Handle> detect(Handle logits, Handle offsets, Handle anchors, Ints image_size,
                                                  Floats weights, double score_threshold, double iou_threshold,
                                                  std::int64_t top_k, std::int64_t max_det, std::string mode) {
  const char* op = "detect";
  const BoxCoder coder = box_coder(op, std::nullopt, weights);
  const auto [height, width] = size_from(op, "image_size", image_size);
  const DetectOptions options{{static_cast<double>(height), static_cast<double>(width)},
                              score_threshold,
                              iou_threshold,
                              top_k,
                              max_det,
                              is_torchvision(op, mode)};
  const std::vector<Detected> found = visdeploy::detect(view(logits, op, "logits"), view(offsets, op, "offsets"),
                                                        view(anchors, op, "anchors"), coder, options, kThreads);
  const auto images = static_cast<std::int64_t>(found.size());
  const Handle boxes = make<float>(op, Ints{images, max_det, 4}), scores = make<float>(op, Ints{images, max_det});
  const Handle labels = make<std::int64_t>(op, Ints{images, max_det}), counts = make<std::int64_t>(op, Ints{images});
  // Each image has `rows` numbers of room, of which it fills the first.
  const auto put = [](const auto& values, auto* room, std::int64_t rows) {
    return std::fill(std::copy(values.begin(), values.end(), room), room + rows, std::decay_t<decltype(*room)>{});
  };
  for (std::int64_t i = 0; i < images; ++i) {
    const Detected& one = found[static_cast<std::size_t>(i)];
    put(one.boxes, data<float>(boxes) + i * max_det * 4, max_det * 4);
    put(one.scores, data<float>(scores) + i * max_det, max_det);
    put(one.labels, data<std::int64_t>(labels) + i * max_det, max_det);
    data<std::int64_t>(counts)[i] = static_cast<std::int64_t>(one.scores.size());
  }
  return {boxes, scores, labels, counts};
}

Handle multibox_detection(Handle cls_probs, Handle offsets, Handle anchors, double nms_threshold,
                          double pos_threshold) {
  const char* op = "multibox_detection";
  const Tensor probs = view(cls_probs, op, "cls_probs");
  Handle rows = make<float>(op, Ints{side(probs, 0), side(probs, 2), 6});
  visdeploy::multibox_detection(probs, view(offsets, op, "offsets"), view(anchors, op, "anchors"), nms_threshold,
                                pos_threshold, data<float>(rows), kThreads);
  return rows;
}

std::tuple<Handle, Handle> encode_logits(Handle logits, std::optional<Ints> size, double threshold) {
  const char* op = "encode_logits";
  LogitsOptions options;
  if (size) options.size = size_from(op, "size", *size);
  options.threshold = static_cast<float>(threshold);
  return joined(op, visdeploy::encode_logits(view(logits, op, "logits"), options, kThreads));
}

std::tuple<Handle, Handle, Handle, Handle> semantic_map(Handle logits, Ints size) {
  const char* op = "semantic_map";
  const Tensor values = view(logits, op, "logits");
  const Size to = size_from(op, "size", size);
  check_size(op, to);
  Handle map = make<std::uint8_t>(op, Ints{to.first, to.second});
  Handle areas = make<std::int64_t>(op, Ints{std::min<std::int64_t>(255, side(values, 0))});  // more are refused
  auto [bytes, offsets] =
      joined(op, visdeploy::semantic_map(values, to, std::nullopt, data<std::uint8_t>(map), data<std::int64_t>(areas)));
  return {std::move(map), std::move(areas), std::move(bytes), std::move(offsets)};
}

Handle letterbox(Handle image, Ints valid, Ints size, std::string interpolation, std::int64_t pad_value) {
  const char* op = "letterbox";
  const Tensor pixels = view(image, op, "image");
  VD_CHECK(interpolation == "nearest" || interpolation == "bilinear" || interpolation == "area",
           R"([letterbox] interpolation: expected "nearest", "bilinear" or "area", got ")", interpolation, '"');
  const auto [valid_height, valid_width] = size_from(op, "valid", valid);
  const auto [height, width] = size_from(op, "size", size);
  const Letterbox to{valid_height,
                     valid_width,
                     height,
                     width,
                     interpolation == "nearest"    ? Interpolation::kNearest
                     : interpolation == "bilinear" ? Interpolation::kBilinear
                                                   : Interpolation::kArea,
                     pad_value};
  check_letterbox(pixels, to);
  Handle result = make<std::uint8_t>(op, Ints{height, width, 3});
  visdeploy::letterbox(pixels, to, data<std::uint8_t>(result));
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY(visdeploy, library) {
  library.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  library.def(
      "batched_nms(Tensor boxes, Tensor scores, Tensor labels, float iou_threshold, str mode='exact') -> Tensor");
  library.def(
      "decode_boxes(Tensor offsets, Tensor anchors, *, float[]? variances=None, float[]? weights=None, "
      "float[]? clip=None) -> Tensor");
  library.def(
      "detect(Tensor logits, Tensor offsets, Tensor anchors, int[] image_size, float[] weights=[10., 10., 5., 5.], "
      "float score_threshold=0.01, float iou_threshold=0.45, int top_k=400, int max_det=200, str mode='exact') -> "
      "(Tensor boxes, Tensor scores, Tensor labels, Tensor counts)");
  library.def(
      "multibox_detection(Tensor cls_probs, Tensor offsets, Tensor anchors, float nms_threshold=0.5, "
      "float pos_threshold=0.009999999) -> Tensor");
  library.def("encode_logits(Tensor logits, int[]? size=None, float threshold=0.) -> (Tensor bytes, Tensor offsets)");
  library.def("semantic_map(Tensor logits, int[] size) -> (Tensor map, Tensor areas, Tensor bytes, Tensor offsets)");
  library.def(
      "letterbox(Tensor image, int[] valid, int[] size, str interpolation='bilinear', int pad_value=0) -> Tensor");
}

// For every backend, so that a tensor on another device gets the op's own sentence.
STABLE_TORCH_LIBRARY_IMPL(visdeploy, CompositeExplicitAutograd, library) {
  library.impl("nms", &boxed<&nms>);
  library.impl("batched_nms", &boxed<&batched_nms>);
  library.impl("decode_boxes", &boxed<&decode_boxes>);
  library.impl("detect", &boxed<&detect>);
  library.impl("multibox_detection", &boxed<&multibox_detection>);
  library.impl("encode_logits", &boxed<&encode_logits>);
  library.impl("semantic_map", &boxed<&semantic_map>);
  library.impl("letterbox", &boxed<&letterbox>);
}

}  // namespace visdeploy::graph
