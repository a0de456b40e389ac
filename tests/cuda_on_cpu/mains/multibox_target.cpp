#include "ops/multibox_target.h"

#include "run.h"

int main() {
  return run::over_sizes("multibox_target", [](int n) {
    constexpr std::int64_t kImages = 2;
    const auto size = static_cast<std::size_t>(kImages * n);
    const auto anchors = run::random_boxes<float>(n);
    const run::Device<float> on_anchors(anchors), offsets(4 * size), mask(4 * size);
    const run::Device<std::int64_t> classes(size);
    std::vector<float> expected_offsets(4 * size), expected_mask(4 * size);
    std::vector<std::int64_t> expected_classes(size);
    for (const std::int64_t rows : {3, 9}) {
      std::vector<float> labels;
      for (std::int64_t i = 0; i < kImages * rows; ++i) {
        const auto box = run::random_boxes<float>(1);
        labels.push_back(static_cast<float>(run::integer(4) - 1));
        labels.insert(labels.end(), box.begin(), box.end());
      }
      const run::Device<float> on_labels(labels);
      for (const bool skip_padding : {true, false}) {
        visdeploy::multibox_target(run::view(anchors, {n, 4}), run::view(labels, {kImages, rows, 5}), skip_padding,
                                   {expected_offsets.data(), expected_mask.data(), expected_classes.data()}, 2);
        visdeploy::multibox_target(run::view(on_anchors, {n, 4}), run::view(on_labels, {kImages, rows, 5}),
                                   skip_padding, {offsets.data(), mask.data(), classes.data()}, 2);
        run::expect_equal("the offsets", offsets.values(), expected_offsets);
        run::expect_equal("the mask", mask.values(), expected_mask);
        run::expect_equal("the classes", classes.values(), expected_classes);
      }
    }
  });
}
