#include "ops/boxes.h"

#include "run.h"

int main() {
  return run::over_sizes("boxes", [](int n) {
    constexpr std::int64_t kImages = 2;
    const auto offsets = run::random<float>(kImages * n * 4, [] { return run::real(-2, 2); });
    const auto anchors = run::random_boxes<float>(n);
    const run::Device<float> on_offsets(offsets), on_anchors(anchors), out(offsets.size());
    std::vector<float> expected(offsets.size());
    const auto o = run::view(offsets, {kImages, n, 4}), a = run::view(anchors, {n, 4});
    const auto cuda_o = run::view(on_offsets, {kImages, n, 4}), cuda_a = run::view(on_anchors, {n, 4});
    for (const auto& coder : {visdeploy::box_coder("decode_boxes", {{0.1, 0.2}}, {}),
                              visdeploy::box_coder("decode_boxes", {}, {{10, 10, 5, 5}})}) {
      for (const visdeploy::ClipSize& clip : {visdeploy::ClipSize{}, visdeploy::ClipSize{{30, 40}}}) {
        visdeploy::decode_boxes(o, a, coder, clip, expected.data(), 2);
        visdeploy::decode_boxes(cuda_o, cuda_a, coder, clip, out.data(), 2);
        run::expect_equal("decode_boxes", out.values(), expected);
      }
      visdeploy::encode_boxes(o, a, coder, expected.data(), 2);
      visdeploy::encode_boxes(cuda_o, cuda_a, coder, out.data(), 2);
      run::expect_equal("encode_boxes", out.values(), expected);
    }
  });
}
