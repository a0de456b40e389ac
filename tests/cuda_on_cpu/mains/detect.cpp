#include "ops/detect.h"

#include "run.h"

namespace {

constexpr std::int64_t kImages = 2, kClasses = 4;

void compare(const visdeploy::Tensor (&cpu)[3], const visdeploy::Tensor (&cuda)[3],
             const visdeploy::DetectOptions& options) {
  const visdeploy::BoxCoder coder = visdeploy::box_coder("detect", {}, {{10, 10, 5, 5}});
  const auto room = static_cast<std::size_t>(kImages * options.max_det);
  const run::Device<float> boxes(4 * room), scores(room);
  const run::Device<std::int64_t> labels(room), counts(kImages);
  detect(cuda[0], cuda[1], cuda[2], coder, options, {boxes.data(), scores.data(), labels.data(), counts.data()});
  // What lies behind an image's count is zero.
  std::vector<float> expected_boxes, expected_scores;
  std::vector<std::int64_t> expected_labels, expected_counts;
  for (visdeploy::Detected& each : detect(cpu[0], cpu[1], cpu[2], coder, options, 2)) {
    expected_counts.push_back(static_cast<std::int64_t>(each.scores.size()));
    each.boxes.resize(4 * static_cast<std::size_t>(options.max_det));
    each.scores.resize(static_cast<std::size_t>(options.max_det));
    each.labels.resize(static_cast<std::size_t>(options.max_det));
    expected_boxes.insert(expected_boxes.end(), each.boxes.begin(), each.boxes.end());
    expected_scores.insert(expected_scores.end(), each.scores.begin(), each.scores.end());
    expected_labels.insert(expected_labels.end(), each.labels.begin(), each.labels.end());
  }
  run::expect_equal("counts", counts.values(), expected_counts);
  run::expect_equal("boxes", boxes.values(), expected_boxes);
  run::expect_equal("scores", scores.values(), expected_scores);
  run::expect_equal("labels", labels.values(), expected_labels);
}

}  // namespace

int main() {
  return run::over_sizes("detect", [](int n) {
    const auto logits = run::random<float>(kImages * n * kClasses, [] { return run::integer(12) / 2.0 - 3; });
    const auto offsets = run::random<float>(kImages * n * 4, [] { return run::real(-1, 1); });
    const auto anchors = run::random_boxes<float>(n);
    const run::Device<float> on_logits(logits), on_offsets(offsets), on_anchors(anchors);
    const visdeploy::Tensor cpu[] = {run::view(logits, {kImages, n, kClasses}), run::view(offsets, {kImages, n, 4}),
                                     run::view(anchors, {n, 4})};
    const visdeploy::Tensor cuda[] = {run::view(on_logits, {kImages, n, kClasses}),
                                      run::view(on_offsets, {kImages, n, 4}), run::view(on_anchors, {n, 4})};
    compare(cpu, cuda, {{60, 50}, 0.01, 0.45, 400, 200, false});
    compare(cpu, cuda, {{60, 50}, 0.3, 0.45, 20, 7, true});
    compare(cpu, cuda, {{60, 50}, 0.999, 0.45, 20, 7, false});
  });
}
