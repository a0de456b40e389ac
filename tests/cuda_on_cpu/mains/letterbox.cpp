#include "ops/letterbox.h"

#include "run.h"

int main() {
  return run::over_sizes("letterbox", [](int n) {
    using visdeploy::Interpolation;
    for (const std::int64_t m : {1, 17, 70}) {
      const auto image = run::random<std::uint8_t>(3 * n * m, [] { return run::integer(256); });
      const run::Device<std::uint8_t> on_image(image);
      for (const auto way : {Interpolation::kNearest, Interpolation::kBilinear, Interpolation::kArea}) {
        const std::int64_t grow = way == Interpolation::kArea ? 0 : 40;
        const visdeploy::Letterbox to{n / 2 + 1, m / 3 + 1 + grow, n + 3, m + grow + 5, way, 114};
        const auto values = static_cast<std::size_t>(3 * to.height * to.width);
        std::vector<std::uint8_t> bytes(values);
        std::vector<float> floats(values);
        const run::Device<std::uint8_t> on_bytes(values);
        const run::Device<float> on_floats(values);
        letterbox(run::view(image, {n, m, 3}), to, bytes.data());
        letterbox(run::view(image, {n, m, 3}), to, floats.data());
        letterbox(run::view(on_image, {n, m, 3}), to, on_bytes.data());
        letterbox(run::view(on_image, {n, m, 3}), to, on_floats.data());
        run::expect_equal("bytes", on_bytes.values(), bytes);
        run::expect_equal("floats", on_floats.values(), floats);
      }
    }
  });
}
