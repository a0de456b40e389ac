#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/device.h"
#include "core/tensor.h"

// Greedy non-maximum suppression. A box is dropped when its IoU with a better box that was kept, rounded to the boxes'
// own precision, exceeds the threshold, which is a double: torchvision's rule on the CPU, to the last bit.
namespace visdeploy {

struct NmsOptions {
  double iou_threshold;
  std::optional<double> score_threshold;  // boxes whose score is not above it are left out
  std::optional<std::int64_t> max_output;
};

// Boxes (N, 4) and scores (N,), both float32 or both float64, to the indices kept, best score first. Equal scores keep
// their order, NaN comes first.
std::vector<std::int64_t> nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& options);

// The same for each label, (N,) int64, of its own.
std::vector<std::int64_t> batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                                      const NmsOptions& options, int num_threads);

// As torchvision.ops.batched_nms decides: up to 1000 boxes are shifted apart by label, which rounds their coordinates.
std::vector<std::int64_t> shifted_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                                      const NmsOptions& options, int num_threads);

// What all of them refuse, before anything is allocated for them; the stream of arguments on a device.
std::optional<WorkStream> check_nms(const char* op, const Tensor& boxes, const Tensor& scores,
                                    const NmsOptions& options);

// Where indices go on a device: room for `capacity`, and how many there are, which may be more. Nothing is written past
// the room.
struct IndicesOut {
  std::int64_t* indices;
  std::int64_t capacity;
  std::int64_t* count;
};

// The same three for arrays on a device, on its stream; nobody waits.
void nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& options, const IndicesOut& out);
void batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels, const NmsOptions& options,
                 const IndicesOut& out);
void shifted_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels, const NmsOptions& options,
                 const IndicesOut& out);

// For ops that bring their own candidates, float or double: n rows of x1, y1, x2, y2, best first, to the indices kept,
// ascending, at most max_output of them.
template <class T>
void suppress(const T* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept);

// The same, but only boxes of one label drop each other; labels are below `label_count`. Box i is row places[i].
template <class T>
std::vector<std::int64_t> suppress_by_label(const T* boxes, const std::uint32_t* places,
                                            const std::vector<std::uint32_t>& labels, std::size_t label_count,
                                            double iou_threshold, std::int64_t max_output, int num_threads);

// Boxes moved apart by label times one more than the largest coordinate, as torchvision does, rounding as it may.
template <class T>
std::vector<T> shift_by_label(const T* boxes, const std::vector<T>& labels);

// Variants; see Note [Suppression].
namespace cpu {
template <class T>
void suppress(const T* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept);
}
namespace avx2 {
template <class T>
void suppress(const T* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept);
}
namespace cuda {
void nms(const Tensor& boxes, const Tensor& scores, const NmsOptions& options, Stream stream, const IndicesOut& out);
void batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels, const NmsOptions& options,
                 Stream stream, const IndicesOut& out);
void shifted_nms(const Tensor& boxes, const Tensor& scores, const Tensor& labels, const NmsOptions& options,
                 Stream stream, const IndicesOut& out);
}  // namespace cuda

}  // namespace visdeploy
