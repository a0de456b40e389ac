#include "ops/multibox_target.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/contiguous.h"
#include "core/device.h"
#include "core/error.h"
#include "core/parallel.h"
#include "ops/boxes.h"

namespace visdeploy {
namespace {

constexpr std::int64_t kLabelColumns = 5;

// Columns, so that the loops over them become vector code.
struct Anchors {
  std::int64_t n;
  const float* rows;
  std::vector<float> x1, y1, x2, y2, area;

  Anchors(const float* first, std::int64_t count) : n(count), rows(first) {
    for (auto* column : {&x1, &y1, &x2, &y2, &area}) column->resize(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < x1.size(); ++i) {
      x1[i] = rows[4 * i];
      y1[i] = rows[4 * i + 1];
      x2[i] = rows[4 * i + 2];
      y2[i] = rows[4 * i + 3];
      area[i] = (x2[i] - x1[i]) * (y2[i] - y1[i]);
    }
  }
};

struct Overlap {
  float iou;
  std::int64_t anchor;
};

// torch's order: NaN is the largest.
bool exceeds(float a, float b) { return !(a <= b) && !std::isnan(b); }

void ious(const Anchors& anchors, const float* box, float* __restrict out) {
  const float x1 = box[0], y1 = box[1], x2 = box[2], y2 = box[3], area = (x2 - x1) * (y2 - y1);
  const float *ax1 = anchors.x1.data(), *ay1 = anchors.y1.data(), *ax2 = anchors.x2.data(), *ay2 = anchors.y2.data();
  const float* areas = anchors.area.data();
  for (std::int64_t i = 0; i < anchors.n; ++i) {
    const float w = (ax2[i] < x2 ? ax2[i] : x2) - (ax1[i] > x1 ? ax1[i] : x1);
    const float h = (ay2[i] < y2 ? ay2[i] : y2) - (ay1[i] > y1 ? ay1[i] : y1);
    const float inter = (w < 0 ? 0 : w) * (h < 0 ? 0 : h);
    out[i] = inter / (areas[i] + area - inter);
  }
}

// The largest of a column, the first where equal.
Overlap largest(const float* iou, std::int64_t n) {
  constexpr std::int64_t kLanes = 16;
  float best[kLanes];
  for (float& lane : best) lane = -1;
  const std::int64_t whole = n / kLanes * kLanes;
  bool nan = false;
  for (std::int64_t i = 0; i < whole; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = iou[i + lane] > best[lane] ? iou[i + lane] : best[lane];
      nan |= iou[i + lane] != iou[i + lane];
    }
  }
  float most = -1;
  for (const float lane : best) most = lane > most ? lane : most;
  for (std::int64_t i = whole; i < n; ++i) {
    most = iou[i] > most ? iou[i] : most;
    nan |= iou[i] != iou[i];
  }
  for (std::int64_t i = 0; i < n; ++i) {
    if (nan ? std::isnan(iou[i]) : iou[i] == most) return {iou[i], i};
  }
  return {most, 0};
}

// assigned[i] becomes the index of the box that anchor i has, or -1.
void assign(const Anchors& anchors, const std::vector<const float*>& boxes, bool as_the_book,
            std::vector<std::int64_t>& assigned) {
  const std::int64_t n = anchors.n, m = static_cast<std::int64_t>(boxes.size());
  std::vector<float> iou(static_cast<std::size_t>(n * m)), most(static_cast<std::size_t>(n), -1.0f);
  std::vector<Overlap> columns;
  for (std::int64_t j = 0; j < m; ++j) {
    float* column = iou.data() + j * n;
    ious(anchors, boxes[static_cast<std::size_t>(j)] + 1, column);
    for (std::size_t i = 0; i < most.size(); ++i) {
      const bool better = exceeds(column[i], most[i]);
      most[i] = better ? column[i] : most[i];
      assigned[i] = better ? j : assigned[i];
    }
    columns.push_back(largest(column, n));
  }
  for (std::size_t i = 0; i < most.size(); ++i) assigned[i] = most[i] >= 0.5f ? assigned[i] : -1;

  std::vector<bool> done(columns.size());
  for (std::int64_t round = 0; round < m; ++round) {
    if (round >= n) {
      // Every anchor is taken. The book goes on, and finds the first entry of a matrix that is -1 throughout.
      if (as_the_book) assigned[0] = 0;
      return;
    }
    std::size_t best = columns.size();
    for (std::size_t j = 0; j < columns.size(); ++j) {
      if (done[j]) continue;
      if (best == columns.size() || exceeds(columns[j].iou, columns[best].iou) ||
          (!exceeds(columns[best].iou, columns[j].iou) && columns[j].anchor < columns[best].anchor)) {
        best = j;
      }
    }
    const std::int64_t anchor = columns[best].anchor;
    assigned[static_cast<std::size_t>(anchor)] = static_cast<std::int64_t>(best);
    done[best] = true;
    for (std::size_t j = 0; j < columns.size(); ++j) {
      float* column = iou.data() + static_cast<std::int64_t>(j) * n;
      column[anchor] = -1;
      if (!done[j] && columns[j].anchor == anchor) columns[j] = largest(column, n);
    }
  }
}

// 0 is background.
std::int64_t target_class(float label) { return std::fabs(label) < 1e18f ? static_cast<std::int64_t>(label) + 1 : 0; }

void write(const Anchors& anchors, const std::vector<const float*>& boxes, const std::vector<std::int64_t>& assigned,
           const MultiboxTarget& out) {
  static const BoxCoder coder = box_coder("multibox_target", std::vector{0.1, 0.2}, std::nullopt);
  std::fill_n(out.offsets, 4 * anchors.n, 0.0f);
  std::fill_n(out.mask, 4 * anchors.n, 0.0f);
  std::fill_n(out.labels, anchors.n, 0);
  std::vector<std::int64_t> positive;
  std::vector<float> boxes_of, anchors_of;
  for (std::size_t i = 0; i < assigned.size(); ++i) {
    if (assigned[i] < 0) continue;
    const float* row = boxes[static_cast<std::size_t>(assigned[i])];
    positive.push_back(static_cast<std::int64_t>(i));
    boxes_of.insert(boxes_of.end(), row + 1, row + kLabelColumns);
    anchors_of.insert(anchors_of.end(), anchors.rows + 4 * i, anchors.rows + 4 * i + 4);
    out.labels[i] = target_class(row[0]);
  }
  std::vector<float> offsets(boxes_of.size());
  encode_rows(boxes_of.data(), anchors_of.data(), static_cast<std::int64_t>(positive.size()), coder, offsets.data());
  for (std::size_t k = 0; k < offsets.size(); ++k) {
    const std::int64_t at = 4 * positive[k / 4] + static_cast<std::int64_t>(k % 4);
    out.offsets[at] = offsets[k];
    out.mask[at] = 1;
  }
}

}  // namespace

void multibox_target(const Tensor& anchors, const Tensor& labels, bool skip_padding, const MultiboxTarget& out,
                     int num_threads) {
  const std::int64_t n = check_anchors("multibox_target", anchors);
  VD_CHECK(labels.dtype == DType::kFloat32, "[multibox_target] labels: expected float32, got ", name(labels.dtype));
  VD_CHECK(labels.rank() == 3 && labels.shape[2] == kLabelColumns,
           "[multibox_target] labels: expected (B, M, 5), rows of class, x1, y1, x2, y2, got ", labels.shape_text());
  const auto stream = device_of("multibox_target", {{"anchors", &anchors}, {"labels", &labels}});
  if (n == 0) return;
  VD_CHECK(!stream || (n <= INT32_MAX && labels.shape[1] <= INT32_MAX),
           "[multibox_target] anchors, labels: expected at most ", INT32_MAX, " of each per image on a device, got ", n,
           " and ", labels.shape[1]);
  if (stream) return cuda::multibox_target(anchors, labels, skip_padding, *stream, out);
  const std::int64_t m = labels.shape[1];
  const Contiguous<float> anchor_rows(anchors), label_rows(labels);
  const Anchors columns(anchor_rows.data(), n);
  const double work = 2.0 * static_cast<double>(labels.shape[0]) * static_cast<double>(n) * static_cast<double>(m);
  parallel_for(labels.shape[0], choose_threads(num_threads, work), [&](std::int64_t image) {
    std::vector<const float*> boxes;
    for (std::int64_t j = 0; j < m; ++j) {
      const float* row = label_rows.data() + (image * m + j) * kLabelColumns;
      if (!skip_padding || row[0] >= 0) boxes.push_back(row);
    }
    std::vector<std::int64_t> assigned(static_cast<std::size_t>(n), -1);
    assign(columns, boxes, !skip_padding, assigned);
    write(columns, boxes, assigned, {out.offsets + 4 * n * image, out.mask + 4 * n * image, out.labels + n * image});
  });
}

}  // namespace visdeploy
