// Stands in for the kernels in a build without CUDA, which refuses arrays on a device before it gets here.
#include <stdexcept>

#include "ops/box_iou.h"
#include "ops/boxes.h"
#include "ops/detect.h"
#include "ops/multibox_detection.h"
#include "ops/multibox_target.h"
#include "ops/nms.h"
#include "ops/null.h"

namespace visdeploy::cuda {
namespace {

[[noreturn]] void absent() { throw std::logic_error("this build has no CUDA kernels"); }

}  // namespace

void box_iou(const Tensor&, const Tensor&, Stream, void*) { absent(); }

void decode_boxes(const Tensor&, const Tensor&, const BoxCoder&, const ClipSize&, Stream, float*) { absent(); }
void encode_boxes(const Tensor&, const Tensor&, const BoxCoder&, Stream, float*) { absent(); }

void detect(const Tensor&, const Tensor&, const Tensor&, const BoxCoder&, const DetectOptions&, Stream,
            const DetectOut&) {
  absent();
}

void multibox_detection(const Tensor&, const Tensor&, const Tensor&, float, float, Stream, float*) { absent(); }

void multibox_target(const Tensor&, const Tensor&, bool, Stream, const MultiboxTarget&) { absent(); }

void nms(const Tensor&, const Tensor&, const NmsOptions&, Stream, const IndicesOut&) { absent(); }
void batched_nms(const Tensor&, const Tensor&, const Tensor&, const NmsOptions&, Stream, const IndicesOut&) {
  absent();
}
void shifted_nms(const Tensor&, const Tensor&, const Tensor&, const NmsOptions&, Stream, const IndicesOut&) {
  absent();
}

void null(const Tensor&, Stream, float*) { absent(); }

}  // namespace visdeploy::cuda
