#include "ops/multibox_target.h"

#include "run.h"

int main() {
  return run::over_sizes("multibox_target", [](int n) {
    constexpr std::int64_t kImages = 2, kRows = 5;
    const auto size = static_cast<std::size_t>(kImages * n);
    const auto anchors = run::random_boxes<float>(n), boxes = run::random_boxes<float>(kImages * kRows);
    std::vector<float> labels;
    for (std::size_t i = 0; i < static_cast<std::size_t>(kImages * kRows); ++i) {
      labels.push_back(static_cast<float>(run::integer(4) - 1));  // -1 is padding
      labels.insert(labels.end(), boxes.begin() + static_cast<std::ptrdiff_t>(4 * i),
                    boxes.begin() + static_cast<std::ptrdiff_t>(4 * i + 4));
    }
    const run::Device<float> on_anchors(anchors), on_labels(labels), offsets(4 * size), mask(4 * size);
    const run::Device<std::int64_t> classes(size);
    std::vector<float> expected_offsets(4 * size), expected_mask(4 * size);
    std::vector<std::int64_t> expected_classes(size);
    for (const bool skip_padding : {true, false}) {
      visdeploy::multibox_target(run::view(anchors, {n, 4}), run::view(labels, {kImages, kRows, 5}), skip_padding,
                                 {expected_offsets.data(), expected_mask.data(), expected_classes.data()}, 2);
      visdeploy::multibox_target(run::view(on_anchors, {n, 4}), run::view(on_labels, {kImages, kRows, 5}), skip_padding,
                                 {offsets.data(), mask.data(), classes.data()}, 2);
      run::expect_equal("offsets", offsets.values(), expected_offsets);
      run::expect_equal("mask", mask.values(), expected_mask);
      run::expect_equal("labels", classes.values(), expected_classes);
    }
  });
}
