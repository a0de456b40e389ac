#include "ops/rle.h"

#include "ops/semantic_map.h"
#include "run.h"

namespace {

using Texts = std::vector<std::string>;

// With just enough room, with a byte too little, and with none.
template <class OnCuda>
void compare(const char* what, const Texts& expected, const OnCuda& on_cuda) {
  std::vector<char> all;
  std::vector<std::int64_t> offsets{0};
  for (const std::string& text : expected) {
    all.insert(all.end(), text.begin(), text.end());
    offsets.push_back(static_cast<std::int64_t>(all.size()));
  }
  for (const std::size_t capacity : {all.size(), all.size() - 1, std::size_t{0}}) {
    const run::Device<char> text(capacity);
    const run::Device<std::int64_t> on_offsets(offsets.size());
    on_cuda(visdeploy::TextsOut{text.data(), static_cast<std::int64_t>(capacity), on_offsets.data()});
    if (capacity == all.size()) {
      run::expect_equal(what, text.values(), all);
      run::expect_equal("offsets", on_offsets.values(), offsets);
    } else if (on_offsets.values().back() < offsets.back()) {
      std::fprintf(stderr, "%s: %s does not say how much room it needs\n", run::now.c_str(), what);
      ++run::failures;
    }
  }
}

void same(const char* what, const Texts& cuda, const Texts& cpu) {
  if (cuda == cpu) return;
  std::fprintf(stderr, "%s: texts of %s differ\n", run::now.c_str(), what);
  ++run::failures;
}

// 3 masks, of runs and of noise.
void run_encode(std::int64_t height, std::int64_t width, int one_in) {
  std::uint8_t value = 0;
  const auto masks = run::random<std::uint8_t>(3 * height * width, [&] {
    if (run::integer(one_in) == 0) value = static_cast<std::uint8_t>(run::integer(3));
    return value;
  });
  const run::Device<std::uint8_t> on_device(masks);
  const auto cpu = run::view(masks, {3, height, width}), cuda = run::view(on_device, {3, height, width});
  const Texts expected = visdeploy::encode(cpu, 0, 2);
  compare("encode", expected, [&](const auto& out) { visdeploy::encode(cuda, 0, out); });
  same("encode", visdeploy::encode(cuda, 0, 2), expected);
  const auto last_cpu = run::view(masks, {height, width, 3}), last = run::view(on_device, {height, width, 3});
  same("encode with axis -1", visdeploy::encode(last, -1, 2), visdeploy::encode(last_cpu, -1, 2));
}

void run_logits(std::int64_t height, std::int64_t width, visdeploy::Size size) {
  const auto logits =
      run::random<float>(3 * height * width, [] { return run::integer(30) == 0 ? NAN : run::real(-1, 1); });
  const run::Device<float> on_device(logits);
  const auto cpu = run::view(logits, {3, height, width}), cuda = run::view(on_device, {3, height, width});
  for (const visdeploy::LogitsOptions& options : {visdeploy::LogitsOptions{}, visdeploy::LogitsOptions{size, {}, 0.25f},
                                                  visdeploy::LogitsOptions{size, {{(height + 1) / 2, width}}, 0}}) {
    const Texts expected = visdeploy::encode_logits(cpu, options, 2);
    compare("encode_logits", expected, [&](const auto& out) { visdeploy::encode_logits(cuda, options, out); });
    same("encode_logits", visdeploy::encode_logits(cuda, options, 2), expected);
  }
  const auto pixels = static_cast<std::size_t>(size.first * size.second);
  std::vector<std::uint8_t> map(pixels);
  std::vector<std::int64_t> areas(3);
  const run::Device<std::uint8_t> on_map(pixels);
  const run::Device<std::int64_t> on_areas(3);
  const Texts expected = visdeploy::semantic_map(cpu, size, {}, map.data(), areas.data());
  compare("semantic_map", expected,
          [&](const auto& out) { visdeploy::semantic_map(cuda, size, {}, on_map.data(), on_areas.data(), out); });
  run::expect_equal("the map", on_map.values(), map);
  run::expect_equal("areas", on_areas.values(), areas);
}

}  // namespace

int main() {
  return run::over_sizes("rle", [](int n) {
    run_encode(n, 3, 1 + n % 20);
    run_encode(3, n, 2);
    run_logits(n, 2, {n + n / 2 + 1, 3});
    run_logits(2, n, {3, n + n / 2 + 1});
  });
}
