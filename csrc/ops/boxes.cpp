#include "ops/boxes.h"

#include <algorithm>
#include <cmath>

#include "core/contiguous.h"
#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace visdeploy {

namespace {

constexpr std::int64_t kRowsPerTask = 16384;

struct Rows {
  std::int64_t images, n;
};

Rows check(const char* op, const char* argument, const Tensor& rows, const Tensor& anchors) {
  const std::int64_t n = check_anchors(op, anchors);
  VD_CHECK(rows.dtype == DType::kFloat32, "[", op, "] ", argument, ": expected float32, got ", name(rows.dtype));
  VD_CHECK((rows.rank() == 2 || rows.rank() == 3) && rows.shape.back() == 4, "[", op, "] ", argument,
           ": expected (N, 4) or (B, N, 4), got ", rows.shape_text());
  const std::int64_t got = rows.shape[rows.shape.size() - 2];
  VD_CHECK(got == n, "[", op, "] ", argument, ": expected one row per anchor, of which there are ", n, ", got ", got);
  return {rows.rank() == 3 ? rows.shape[0] : 1, n};
}

// Cuts every image into tasks of kRowsPerTask rows and calls body(image, first row, number of rows) for each.
template <class Body>
void for_rows(const Rows& rows, int num_threads, const Body& body) {
  if (rows.n == 0) return;
  const std::int64_t tasks = (rows.n + kRowsPerTask - 1) / kRowsPerTask;
  const double work = 5.0 * static_cast<double>(rows.images) * static_cast<double>(rows.n);
  parallel_for(rows.images * tasks, choose_threads(num_threads, work), [&](std::int64_t task) {
    const std::int64_t first = task % tasks * kRowsPerTask;
    body(task / tasks, first, std::min(kRowsPerTask, rows.n - first));
  });
}

}  // namespace

std::int64_t check_anchors(const char* op, const Tensor& anchors) {
  VD_CHECK(anchors.dtype == DType::kFloat32, "[", op, "] anchors: expected float32, got ", name(anchors.dtype));
  const int rank = anchors.rank();
  VD_CHECK((rank == 2 || (rank == 3 && anchors.shape[0] == 1)) && anchors.shape.back() == 4, "[", op,
           "] anchors: expected (N, 4) or (1, N, 4), got ", anchors.shape_text());
  return anchors.shape[static_cast<std::size_t>(rank - 2)];
}

BoxCoder box_coder(const char* op, const std::optional<std::vector<double>>& variances,
                   const std::optional<std::vector<double>>& weights) {
  VD_CHECK(variances.has_value() != weights.has_value(), "[", op,
           "] expected exactly one of variances and weights, got ", variances ? "both" : "neither");
  const std::vector<double>& values = variances ? *variances : *weights;
  if (variances) {
    VD_CHECK(values.size() == 2 || values.size() == 4, "[", op, "] variances: expected 2 or 4 numbers, got ",
             values.size());
  } else {
    VD_CHECK(values.size() == 4, "[", op, "] weights: expected 4 numbers, got ", values.size());
  }
  BoxCoder coder{variances ? BoxRule::kVariances : BoxRule::kWeights, {}};
  for (std::size_t i = 0; i < 4; ++i) {
    const double value = values.size() == 2 ? values[i / 2] : values[i];
    VD_CHECK(std::isfinite(value) && value > 0, "[", op, "] ", variances ? "variances" : "weights",
             ": expected positive numbers, got ", value);
    coder.scale[i] = static_cast<float>(variances ? 1 / value : value);
    VD_CHECK(std::isnormal(coder.scale[i]), "[", op, "] ", variances ? "variances" : "weights",
             ": expected numbers that float32 holds, got ", value);
  }
  return coder;
}

void decode_rows(const float* offsets, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out) {
  if (isa() == Isa::kAvx512) return avx512::decode(offsets, anchors, n, coder, out);
  if (isa() == Isa::kAvx2) return avx2::decode(offsets, anchors, n, coder, out);
  cpu::decode(offsets, anchors, n, coder, out);
}

void encode_rows(const float* boxes, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out) {
  if (isa() == Isa::kAvx512) return avx512::encode(boxes, anchors, n, coder, out);
  if (isa() == Isa::kAvx2) return avx2::encode(boxes, anchors, n, coder, out);
  cpu::encode(boxes, anchors, n, coder, out);
}

void clip_rows(float* boxes, std::int64_t n, float height, float width) {
  const float limits[2] = {width, height};
  for (std::int64_t i = 0; i < 4 * n; ++i) {
    const float limit = limits[i % 2], value = boxes[i] < 0 ? 0 : boxes[i];
    boxes[i] = value > limit ? limit : value;
  }
}

void decode_boxes(const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder, const ClipSize& clip, float* out,
                  int num_threads) {
  const Rows rows = check("decode_boxes", "offsets", offsets, anchors);
  if (clip) {
    VD_CHECK(clip->first >= 0 && clip->second >= 0, "[decode_boxes] clip: expected (H, W), neither negative, got (",
             clip->first, ", ", clip->second, ")");
  }
  if (const auto stream = device_of("decode_boxes", {{"offsets", &offsets}, {"anchors", &anchors}})) {
    return cuda::decode_boxes(offsets, anchors, coder, clip, *stream, out);
  }
  const Contiguous<float> from(offsets), at(anchors);
  for_rows(rows, num_threads, [&](std::int64_t image, std::int64_t first, std::int64_t n) {
    const std::int64_t begin = 4 * (image * rows.n + first);
    decode_rows(from.data() + begin, at.data() + 4 * first, n, coder, out + begin);
    if (clip) clip_rows(out + begin, n, static_cast<float>(clip->first), static_cast<float>(clip->second));
  });
}

void encode_boxes(const Tensor& boxes, const Tensor& anchors, const BoxCoder& coder, float* out, int num_threads) {
  const Rows rows = check("encode_boxes", "boxes", boxes, anchors);
  if (const auto stream = device_of("encode_boxes", {{"boxes", &boxes}, {"anchors", &anchors}})) {
    return cuda::encode_boxes(boxes, anchors, coder, *stream, out);
  }
  const Contiguous<float> from(boxes), at(anchors);
  for_rows(rows, num_threads, [&](std::int64_t image, std::int64_t first, std::int64_t n) {
    const std::int64_t begin = 4 * (image * rows.n + first);
    encode_rows(from.data() + begin, at.data() + 4 * first, n, coder, out + begin);
  });
}

}  // namespace visdeploy
