#include "ops/null.h"

#include "run.h"

int main() {
  return run::over_sizes("null", [](int n) {
    std::vector<float> x(static_cast<std::size_t>(2 * n)), expected(static_cast<std::size_t>(n));
    for (float& value : x) value = run::real(-1, 1);
    const run::Device<float> on_device(x), out(expected.size());
    for (const std::int64_t stride : {4, 8, 0, -4}) {
      const auto cut = [&](visdeploy::Tensor tensor) {
        tensor.strides[0] = stride;
        if (stride < 0) tensor.data = tensor.at<float>((n - 1) * 4);
        return tensor;
      };
      visdeploy::null(cut(run::view(x, {n})), expected.data());
      visdeploy::null(cut(run::view(on_device, {n})), out.data());
      run::expect_equal("the copy", out.values(), expected);
    }
  });
}
