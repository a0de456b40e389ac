#include "ops/nms.h"

#include <algorithm>

#include "ops/box_iou.h"
#include "run.h"

namespace {

// With room for all indices, and with too little, of which every place is used and no further one.
template <class OnCuda>
void compare(const char* what, int n, const std::vector<std::int64_t>& expected, const OnCuda& on_cuda) {
  for (const std::size_t capacity : {static_cast<std::size_t>(n), expected.size() / 2}) {
    const run::Device<std::int64_t> indices(capacity), count(1);
    on_cuda(visdeploy::IndicesOut{indices.data(), static_cast<std::int64_t>(capacity), count.data()});
    const std::size_t written = std::min(capacity, expected.size());
    std::vector<std::int64_t> got = indices.values(), first = expected;
    got.resize(written);
    first.resize(written);
    run::expect_equal(what, got, first);
    run::expect_equal("the count", count.values(), {static_cast<std::int64_t>(expected.size())});
  }
}

template <class T>
void run_nms(int n) {
  const std::vector<T> boxes = run::random_boxes<T>(n);
  const std::vector<T> scores = run::random<T>(n, [] { return run::integer(20) == 0 ? NAN : run::integer(30) / 30.0; });
  const auto labels = run::random<std::int64_t>(n, [] { return run::integer(4) - 1; });
  const run::Device<T> on_boxes(boxes), on_scores(scores);
  const run::Device<std::int64_t> on_labels(labels);
  const auto b = run::view(boxes, {n, 4}), s = run::view(scores, {n}), l = run::view(labels, {n});
  const auto cuda_b = run::view(on_boxes, {n, 4}), cuda_s = run::view(on_scores, {n}),
             cuda_l = run::view(on_labels, {n});
  for (const visdeploy::NmsOptions& options :
       {visdeploy::NmsOptions{0.5, {}, {}}, visdeploy::NmsOptions{0.3, 0.2, n / 3},
        visdeploy::NmsOptions{0.0, 2.0, {}}}) {
    compare("nms", n, nms(b, s, options), [&](const auto& out) { nms(cuda_b, cuda_s, options, out); });
    compare("batched_nms", n, batched_nms(b, s, l, options, 2),
            [&](const auto& out) { batched_nms(cuda_b, cuda_s, cuda_l, options, out); });
    compare("shifted_nms", n, shifted_nms(b, s, l, options, 2),
            [&](const auto& out) { shifted_nms(cuda_b, cuda_s, cuda_l, options, out); });
  }
  const std::int64_t m = n < 7 ? n : 7;
  std::vector<T> ious(static_cast<std::size_t>(n * m));
  const run::Device<T> on_ious(ious.size());
  visdeploy::box_iou(b, run::view(boxes, {m, 4}), ious.data(), 1);
  visdeploy::box_iou(cuda_b, run::view(on_boxes, {m, 4}), on_ious.data(), 1);
  run::expect_equal("box_iou", on_ious.values(), ious);
}

}  // namespace

int main() {
  return run::over_sizes("nms", [](int n) {
    run_nms<float>(n);
    run_nms<double>(n);
    if (n == 1025) run_nms<float>(4700);  // taken in rounds
  });
}
