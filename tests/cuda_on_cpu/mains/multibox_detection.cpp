#include "ops/multibox_detection.h"

#include "run.h"

int main() {
  return run::over_sizes("multibox_detection", [](int n) {
    constexpr std::int64_t kImages = 2, kRows = 4;  // the background and three classes
    const auto probabilities = run::random<float>(kImages * kRows * n, [] { return run::integer(40) / 40.0; });
    const auto offsets = run::random<float>(kImages * n * 4, [] { return run::real(-1, 1); });
    const auto anchors = run::random_boxes<float>(n);
    const run::Device<float> on_probabilities(probabilities), on_offsets(offsets), on_anchors(anchors);
    const run::Device<float> out(static_cast<std::size_t>(kImages * n * 6));
    std::vector<float> expected(static_cast<std::size_t>(kImages * n * 6));
    for (const double threshold : {0.5, 0.1}) {
      visdeploy::multibox_detection(run::view(probabilities, {kImages, kRows, n}), run::view(offsets, {kImages, 4 * n}),
                                    run::view(anchors, {n, 4}), threshold, 0.3, expected.data(), 2);
      visdeploy::multibox_detection(run::view(on_probabilities, {kImages, kRows, n}),
                                    run::view(on_offsets, {kImages, 4 * n}), run::view(on_anchors, {n, 4}), threshold,
                                    0.3, out.data(), 2);
      run::expect_equal("the rows", out.values(), expected);
    }
  });
}
