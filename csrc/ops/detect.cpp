#include "ops/detect.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "core/contiguous.h"
#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "ops/detect_candidates.h"
#include "ops/nms.h"

namespace visdeploy {

void Candidates::push(float score, std::uint32_t entry) {
  keys_.push_back(key(score, entry));
  if (keys_.size() / 2 < capacity_) return;
  const auto last = keys_.begin() + static_cast<std::ptrdiff_t>(capacity_) - 1;
  std::nth_element(keys_.begin(), last, keys_.end(), std::greater<>());
  floor_ = Candidates::score(*last);
  keys_.resize(capacity_);
  let_go_ = true;
}

namespace {

using Key = Candidates::Key;

// A row of numbers for each anchor of an image. A network answers with logits and offsets in one row, so that those of
// the next anchor lie further on than they are long.
struct Rows {
  const float* first;
  std::int64_t stride;

  const float* of(std::int64_t anchor) const { return first + anchor * stride; }
};

// (B, N, K) numbers, in their own memory where those of a row are neighbours, else copied.
class Images {
 public:
  explicit Images(const Tensor& tensor) {
    constexpr std::int64_t kSize = sizeof(float);
    const auto whole = [](std::int64_t bytes) { return bytes % kSize == 0; };
    if (whole(static_cast<std::int64_t>(reinterpret_cast<std::intptr_t>(tensor.data))) && tensor.strides[2] == kSize &&
        whole(tensor.strides[0]) && whole(tensor.strides[1])) {
      first_ = {static_cast<const float*>(tensor.data), tensor.strides[1] / kSize};
      stride_ = tensor.strides[0] / kSize;
    } else {
      copy_.emplace(tensor);
      first_ = {copy_->data(), tensor.shape[2]};
      stride_ = tensor.shape[1] * tensor.shape[2];
    }
  }

  Rows of(std::int64_t image) const { return {first_.first + image * stride_, first_.stride}; }

 private:
  std::optional<Contiguous<float>> copy_;
  Rows first_;
  std::int64_t stride_;
};

void scan(Rows logits, std::int64_t first, std::int64_t last, std::int64_t classes, Candidates& candidates) {
  // Registers of twice the width gain nothing: the logits come no faster.
  if (isa() >= Isa::kAvx2) return avx2::scan(logits.first, logits.stride, first, last, classes, candidates);
  cpu::scan(logits.first, logits.stride, first, last, classes, candidates);
}

// The best candidates of an image, or all of them.
struct Pool {
  std::vector<Key> keys;
  bool complete;
};

Pool pool(const Candidates* parts, std::int64_t n, std::size_t capacity) {
  Pool all{{}, true};
  for (const Candidates* part = parts; part != parts + n; ++part) {
    all.keys.insert(all.keys.end(), part->keys().begin(), part->keys().end());
    all.complete &= !part->let_go();
  }
  if (!all.complete) {
    // A part may have let go of what beats the last of another; but no part of any of the first `capacity`.
    const auto end = all.keys.begin() + static_cast<std::ptrdiff_t>(capacity);
    std::nth_element(all.keys.begin(), end - 1, all.keys.end(), std::greater<>());
    all.keys.erase(end, all.keys.end());
  }
  return all;
}

// What does not change from image to image.
struct Detector {
  std::int64_t n, classes;
  const float* anchors;
  const BoxCoder& coder;
  const DetectOptions& options;

  // More than the answer needs, unless NMS drops nearly all of them.
  std::size_t first_capacity() const {
    return static_cast<std::size_t>(std::clamp<std::int64_t>(options.max_det, 256, n * classes / 2 + 256) * 2);
  }
  float threshold() const { return static_cast<float>(options.score_threshold); }

  std::vector<float> boxes_of(const std::vector<Key>& keys, Rows offsets) const {
    std::vector<float> rows(4 * keys.size()), at(rows.size()), boxes(rows.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const std::int64_t anchor = Candidates::entry(keys[i]) / classes;
      std::copy_n(offsets.of(anchor), 4, rows.data() + 4 * i);
      std::copy_n(anchors + 4 * anchor, 4, at.data() + 4 * i);
    }
    const auto count = static_cast<std::int64_t>(keys.size());
    decode_rows(rows.data(), at.data(), count, coder, boxes.data());
    clip_rows(boxes.data(), count, static_cast<float>(options.image_size.first),
              static_cast<float>(options.image_size.second));
    return boxes;
  }

  std::int64_t label(Key key) const { return Candidates::entry(key) % classes; }

  // Best first, and of each class at most top_k.
  std::vector<Key> best_of_each_class(std::vector<Key> keys) const {
    std::sort(keys.begin(), keys.end(), std::greater<>());
    std::vector<std::int64_t> seen(static_cast<std::size_t>(classes));
    std::size_t count = 0;
    for (const Key key : keys) {
      if (seen[static_cast<std::size_t>(label(key))]++ < options.top_k) keys[count++] = key;
    }
    keys.resize(count);
    return keys;
  }

  Detected answer(const std::vector<Key>& keys, const std::vector<float>& boxes,
                  const std::vector<std::int64_t>& kept) const {
    Detected result;
    for (const std::int64_t k : kept) {
      const Key key = keys[static_cast<std::size_t>(k)];
      result.boxes.insert(result.boxes.end(), boxes.begin() + 4 * k, boxes.begin() + 4 * k + 4);
      result.scores.push_back(Candidates::score(key));
      result.labels.push_back(label(key));
    }
    return result;
  }

  // torchvision moves every class by more than the largest coordinate, rounding as it may, and suppresses them at once.
  Detected nms_of_moved(const std::vector<Key>& keys, Rows offsets) const {
    const std::vector<float> boxes = boxes_of(keys, offsets);
    std::vector<float> labels(keys.size());
    std::transform(keys.begin(), keys.end(), labels.begin(), [&](Key key) { return static_cast<float>(label(key)); });
    const std::vector<float> moved = shift_by_label(boxes.data(), labels);
    std::vector<std::int64_t> kept;
    suppress(moved.data(), static_cast<std::int64_t>(keys.size()), options.iou_threshold, options.max_det, kept);
    return answer(keys, boxes, kept);
  }

  Detected nms_per_class(const std::vector<Key>& keys, Rows offsets) const {
    const std::vector<float> boxes = boxes_of(keys, offsets);
    std::vector<std::uint32_t> places(keys.size()), labels(keys.size());
    std::iota(places.begin(), places.end(), 0);
    std::transform(keys.begin(), keys.end(), labels.begin(),
                   [&](Key key) { return static_cast<std::uint32_t>(label(key)); });
    return answer(keys, boxes,
                  suppress_by_label(boxes.data(), places.data(), labels, static_cast<std::size_t>(classes),
                                    options.iou_threshold, options.max_det, 1));
  }

  // What best_of_each_class() would leave.
  std::int64_t count_best(const std::vector<Key>& keys) const {
    std::vector<std::int64_t> seen(static_cast<std::size_t>(classes));
    return std::count_if(keys.begin(), keys.end(),
                         [&](Key key) { return seen[static_cast<std::size_t>(label(key))]++ < options.top_k; });
  }

  // All candidates, or enough of them to be more than torchvision moves.
  std::vector<Key> scan_until_many(Rows logits) const {
    constexpr std::int64_t kPiece = 256;
    Candidates candidates(threshold(), SIZE_MAX);
    std::vector<std::int64_t> seen(static_cast<std::size_t>(classes));
    std::int64_t count = 0;
    std::size_t counted = 0;
    for (std::int64_t first = 0; first < n && count <= kMostMoved; first += kPiece) {
      scan(logits, first, std::min(n, first + kPiece), classes, candidates);
      for (; counted < candidates.keys().size(); ++counted) {
        count += seen[static_cast<std::size_t>(label(candidates.keys()[counted]))]++ < options.top_k;
      }
    }
    return candidates.keys();
  }

  Pool rescan(Rows logits, std::size_t capacity) const {
    Candidates candidates(threshold(), capacity);
    scan(logits, 0, n, classes, candidates);
    return pool(&candidates, 1, capacity);
  }

  Detected detect(Rows logits, Rows offsets, Pool best) const {
    if (options.as_torchvision) {
      // Which of its two ways torchvision goes depends on how many there are.
      const std::vector<Key> keys = best.complete ? best.keys : scan_until_many(logits);
      if (count_best(keys) <= kMostMoved) return nms_of_moved(best_of_each_class(keys), offsets);
    }
    for (std::size_t capacity = first_capacity();; best = rescan(logits, capacity)) {
      Detected found = nms_per_class(best_of_each_class(std::move(best.keys)), offsets);
      if (best.complete || static_cast<std::int64_t>(found.scores.size()) >= options.max_det) return found;
      capacity *= 8;
    }
  }
};

// Tells where the arrays lie.
std::optional<WorkStream> check(const Tensor& logits, const Tensor& offsets, const Tensor& anchors,
                                const DetectOptions& options) {
  const std::int64_t n = check_anchors("detect", anchors);
  VD_CHECK(logits.dtype == DType::kFloat32, "[detect] logits: expected float32, got ", name(logits.dtype));
  VD_CHECK(logits.rank() == 3, "[detect] logits: expected (B, N, C), got ", logits.shape_text());
  VD_CHECK(logits.shape[1] == n, "[detect] logits: expected (B, N, C) with N = ", n, " anchors, got ",
           logits.shape_text());
  VD_CHECK(logits.shape[2] >= 2, "[detect] logits: expected at least 2 classes, the background first, got ",
           logits.shape_text());
  VD_CHECK(n == 0 || logits.shape[2] <= INT32_MAX / n, "[detect] logits: expected at most ", INT32_MAX,
           " numbers per image, got ", logits.shape_text());
  VD_CHECK(offsets.dtype == DType::kFloat32, "[detect] offsets: expected float32, got ", name(offsets.dtype));
  VD_CHECK(offsets.rank() == 3 && offsets.shape[0] == logits.shape[0] && offsets.shape[1] == n && offsets.shape[2] == 4,
           "[detect] offsets: expected (B, N, 4) = (", logits.shape[0], ", ", n, ", 4), got ", offsets.shape_text());
  VD_CHECK(options.image_size.first >= 0 && options.image_size.second >= 0,
           "[detect] image_size: expected (H, W), neither negative, got (", options.image_size.first, ", ",
           options.image_size.second, ")");
  VD_CHECK(!std::isnan(options.score_threshold), "[detect] score_threshold: expected a number, got NaN");
  VD_CHECK(!std::isnan(options.iou_threshold), "[detect] iou_threshold: expected a number, got NaN");
  VD_CHECK(options.top_k >= 0, "[detect] top_k: expected at least 0, got ", options.top_k);
  VD_CHECK(options.max_det >= 0, "[detect] max_det: expected at least 0, got ", options.max_det);
  return device_of("detect", {{"logits", &logits}, {"offsets", &offsets}, {"anchors", &anchors}});
}

}  // namespace

std::vector<Detected> detect(const Tensor& logits, const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder,
                             const DetectOptions& options, int num_threads) {
  const bool on_device = check(logits, offsets, anchors, options).has_value();
  VD_CHECK(!on_device, "[detect] logits: expected an array in CPU memory, got one on a CUDA device");
  const std::int64_t images = logits.shape[0], n = logits.shape[1], classes = logits.shape[2];
  std::vector<Detected> results(static_cast<std::size_t>(images));
  if (n == 0 || options.top_k == 0 || options.max_det == 0) return results;
  const Images rows(logits), deltas(offsets);
  const Contiguous<float> at(anchors);
  const Detector detector{n, classes, at.data(), coder, options};
  const double work = 0.2 * static_cast<double>(images) * static_cast<double>(n) * static_cast<double>(classes);
  const int threads = choose_threads(num_threads, work);

  // Where threads outnumber images, several scan one.
  const std::int64_t parts = std::min<std::int64_t>(n, images ? (threads + images - 1) / images : 1);
  std::vector<Candidates> candidates(static_cast<std::size_t>(images * parts),
                                     Candidates(detector.threshold(), detector.first_capacity()));
  parallel_for(images * parts, threads, [&](std::int64_t task) {
    const std::int64_t part = task % parts;
    scan(rows.of(task / parts), n * part / parts, n * (part + 1) / parts, classes,
         candidates[static_cast<std::size_t>(task)]);
  });
  parallel_for(images, threads, [&](std::int64_t image) {
    results[static_cast<std::size_t>(image)] = detector.detect(
        rows.of(image), deltas.of(image), pool(candidates.data() + image * parts, parts, detector.first_capacity()));
  });
  return results;
}

void detect(const Tensor& logits, const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder,
            const DetectOptions& options, const DetectOut& out) {
  const std::optional<WorkStream> stream = check(logits, offsets, anchors, options);
  VD_CHECK(stream, "[detect] logits: expected an array on a CUDA device, got one in CPU memory");
  cuda::detect(logits, offsets, anchors, coder, options, *stream, out);
}

}  // namespace visdeploy
