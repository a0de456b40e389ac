// Stands in for the kernels in a build without CUDA, which refuses arrays on a device before it gets here.
#include <stdexcept>

#include "ops/box_iou.h"
#include "ops/boxes.h"
#include "ops/detect.h"
#include "ops/letterbox.h"
#include "ops/multibox_detection.h"
#include "ops/multibox_target.h"
#include "ops/nms.h"
#include "ops/null.h"
#include "ops/rle.h"
#include "ops/semantic_map.h"

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

void letterbox(const Tensor&, const Letterbox&, Stream, std::uint8_t*) { absent(); }
void letterbox(const Tensor&, const Letterbox&, Stream, float*) { absent(); }

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

void encode(const Tensor&, Stream, const TextsOut&) { absent(); }
std::vector<std::string> read_texts(const char*, std::int64_t, std::int64_t, std::int64_t, Stream,
                                    const std::function<void(const TextsOut&)>&) {
  absent();
}

void encode_labels(const std::uint8_t*, Size, std::int64_t, Stream, const TextsOut&) { absent(); }
void encode_logits(const Tensor&, Size, float, Stream, const TextsOut&) { absent(); }
void semantic_map(const Tensor&, Size, Stream, std::uint8_t*, std::int64_t*) { absent(); }

}  // namespace visdeploy::cuda
