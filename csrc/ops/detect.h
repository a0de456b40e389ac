#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "ops/boxes.h"

// SSD's detections in one pass over the logits: softmax, threshold, the best of each class, decoding, NMS, the best of
// all. As torchvision's SSD.postprocess_detections, but that ties in score take the lower (anchor, class) first.
namespace visdeploy {

struct DetectOptions {
  std::pair<double, double> image_size;  // height, width
  double score_threshold;
  double iou_threshold;
  std::int64_t top_k;    // candidates per class
  std::int64_t max_det;  // detections per image
  bool as_torchvision;   // at most 1000 candidates are kept apart by class by moving their coordinates, as there
};

struct Detected {
  std::vector<float> boxes;
  std::vector<float> scores;
  std::vector<std::int64_t> labels;
};

// Logits (B, N, C) with the background first, offsets (B, N, 4), anchors (N, 4): B answers, each best first.
std::vector<Detected> detect(const Tensor& logits, const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder,
                             const DetectOptions& options, int num_threads);

// Room on a device for max_det detections of each image, and how many it has: boxes (B, max_det, 4), scores and labels
// (B, max_det), counts (B,). What lies behind an image's count is zero.
struct DetectOut {
  float* boxes;
  float* scores;
  std::int64_t* labels;
  std::int64_t* counts;
};

// The same on a device, without waiting for it.
void detect(const Tensor& logits, const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder,
            const DetectOptions& options, const DetectOut& out);

// Up to as many candidates torchvision's batched_nms moves, which are 4000 coordinates.
constexpr std::int64_t kMostMoved = 1000;

namespace cuda {
void detect(const Tensor& logits, const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder,
            const DetectOptions& options, Stream stream, const DetectOut& out);
}

}  // namespace visdeploy
