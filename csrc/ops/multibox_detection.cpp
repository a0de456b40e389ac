#include "ops/multibox_detection.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "core/contiguous.h"
#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "ops/boxes.h"
#include "ops/score_order.h"

namespace visdeploy {
namespace {

constexpr std::int64_t kColumns = 6;

struct Best {
  std::vector<float> conf;
  std::vector<std::int32_t> label;
};

// The largest of the classes after the background, the first where equal; NaN is the largest.
Best best_class(const float* probs, std::int64_t classes, std::int64_t n) {
  const auto size = static_cast<std::size_t>(n);
  Best best{std::vector<float>(probs + n, probs + 2 * n), std::vector<std::int32_t>(size)};
  float* __restrict conf = best.conf.data();
  std::int32_t* __restrict label = best.label.data();
  for (std::int64_t c = 2; c < classes; ++c) {
    const float* row = probs + c * n;
    for (std::int64_t i = 0; i < n; ++i) {
      const bool better = !(row[i] <= conf[i]) & (conf[i] == conf[i]);
      conf[i] = better ? row[i] : conf[i];
      label[i] = better ? static_cast<std::int32_t>(c - 1) : label[i];
    }
  }
  return best;
}

void suppress(const float* boxes, const std::vector<std::uint32_t>& order, float threshold,
              std::vector<std::uint32_t>& kept) {
  const auto n = static_cast<std::int64_t>(order.size());
  if (isa() >= Isa::kAvx2) return avx2::suppress_anchors(boxes, order.data(), n, threshold, kept);
  cpu::suppress_anchors(boxes, order.data(), n, threshold, kept);
}

void detect_one(const float* probs, std::int64_t classes, const float* offsets, const float* anchors, std::int64_t n,
                float nms_threshold, float pos_threshold, float* out) {
  static const BoxCoder coder = box_coder("multibox_detection", std::vector{0.1, 0.2}, std::nullopt);
  const Best best = best_class(probs, classes, n);
  const std::vector<std::uint32_t> order = score_order(best.conf.data(), n, std::nullopt);
  std::vector<float> boxes(static_cast<std::size_t>(4 * n));
  decode_rows(offsets, anchors, n, coder, boxes.data());
  std::vector<std::uint32_t> kept;
  suppress(boxes.data(), order, nms_threshold, kept);

  std::vector<bool> is_kept(order.size());
  const auto write = [&](std::size_t index, std::int32_t label) {
    const float conf = best.conf[index];
    const bool below = conf < pos_threshold;
    out[0] = below ? -1.0f : static_cast<float>(label);
    out[1] = below ? 1 - conf : conf;
    std::copy_n(boxes.data() + 4 * index, 4, out + 2);
    out += kColumns;
  };
  for (const std::uint32_t index : kept) {
    is_kept[index] = true;
    write(index, best.label[index]);
  }
  for (std::size_t i = 0; i < order.size(); ++i) {
    if (!is_kept[i]) write(i, -1);
  }
}

}  // namespace

void multibox_detection(const Tensor& cls_probs, const Tensor& offsets, const Tensor& anchors, double nms_threshold,
                        double pos_threshold, float* out, int num_threads) {
  const char* op = "[multibox_detection] ";
  const std::int64_t n = check_anchors("multibox_detection", anchors);
  VD_CHECK(cls_probs.dtype == DType::kFloat32, op, "cls_probs: expected float32, got ", name(cls_probs.dtype));
  VD_CHECK(offsets.dtype == DType::kFloat32, op, "offsets: expected float32, got ", name(offsets.dtype));
  VD_CHECK(cls_probs.rank() == 3 && cls_probs.shape[1] >= 2 && cls_probs.shape[2] == n, op,
           "cls_probs: expected (B, C + 1, N) with C >= 1 and N = ", n, " anchors, got ", cls_probs.shape_text());
  const std::int64_t images = cls_probs.shape[0], classes = cls_probs.shape[1];
  VD_CHECK(offsets.rank() == 2 && offsets.shape[0] == images && offsets.shape[1] == 4 * n, op,
           "offsets: expected (B, 4 N) = (", images, ", ", 4 * n, "), got ", offsets.shape_text());
  VD_CHECK(n <= INT32_MAX / 4, op, "anchors: at most ", INT32_MAX / 4, ", got ", n);
  VD_CHECK(!std::isnan(nms_threshold), op, "nms_threshold: expected a number, got NaN");
  VD_CHECK(!std::isnan(pos_threshold), op, "pos_threshold: expected a number, got NaN");
  const auto nms = static_cast<float>(nms_threshold), pos = static_cast<float>(pos_threshold);
  const std::optional<WorkStream> stream =
      device_of("multibox_detection", {{"cls_probs", &cls_probs}, {"offsets", &offsets}, {"anchors", &anchors}});
  if (n == 0) return;
  if (stream) return cuda::multibox_detection(cls_probs, offsets, anchors, nms, pos, *stream, out);
  const Contiguous<float> probs(cls_probs), rows(offsets), at(anchors);
  const double work = 100.0 * static_cast<double>(images) * static_cast<double>(n);
  parallel_for(images, choose_threads(num_threads, work), [&](std::int64_t image) {
    detect_one(probs.data() + image * classes * n, classes, rows.data() + 4 * image * n, at.data(), n, nms, pos,
               out + kColumns * image * n);
  });
}

}  // namespace visdeploy
