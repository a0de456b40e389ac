#include "ops/semantic_map.h"

#include <algorithm>
#include <cmath>

#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"

namespace visdeploy {
namespace {

// Cuts the two last axes of the logits to their valid part.
Tensor crop(const char* op, Tensor logits, const std::optional<Size>& valid) {
  const auto rank = logits.shape.size();
  std::int64_t& height = logits.shape[rank - 2];
  std::int64_t& width = logits.shape[rank - 1];
  if (valid) {
    VD_CHECK(valid->first >= 1 && valid->second >= 1 && valid->first <= height && valid->second <= width, "[", op,
             "] valid: expected 1 to (", height, ", ", width, "), got (", valid->first, ", ", valid->second, ")");
    height = valid->first;
    width = valid->second;
  }
  VD_CHECK(height >= 1 && width >= 1, "[", op, "] logits: expected at least one pixel, got shape ",
           logits.shape_text());
  check_size(op, {height, width});
  return logits;
}

// The logits to use, and the size of their masks.
std::pair<Tensor, Size> check_encode_logits(const Tensor& logits, const LogitsOptions& options) {
  const int rank = logits.rank();
  VD_CHECK(logits.dtype == DType::kFloat32, "[encode_logits] logits: expected float32, got ", name(logits.dtype));
  VD_CHECK(rank == 2 || rank == 3, "[encode_logits] logits: expected (h, w) or (N, h, w), got shape ",
           logits.shape_text());
  VD_CHECK(!std::isnan(options.threshold), "[encode_logits] threshold: expected a number, got NaN");
  Tensor used = crop("encode_logits", logits, options.valid);
  const auto last = static_cast<std::size_t>(rank - 1);
  const Size size = options.size.value_or(Size{used.shape[last - 1], used.shape[last]});
  check_size("encode_logits", size);
  return {std::move(used), size};
}

// Logits as (N, h, w).
Tensor stacked(const Tensor& logits) { return logits.rank() == 3 ? logits : logits.insert(0); }

Tensor check_semantic_map(const Tensor& logits, Size size, std::optional<Size> valid) {
  VD_CHECK(logits.dtype == DType::kFloat32, "[semantic_map] logits: expected float32, got ", name(logits.dtype));
  VD_CHECK(logits.rank() == 3, "[semantic_map] logits: expected (C, h, w), got shape ", logits.shape_text());
  VD_CHECK(logits.shape[0] >= 1 && logits.shape[0] <= 255, "[semantic_map] logits: expected 1 to 255 classes, got ",
           logits.shape[0]);
  check_size("semantic_map", size);
  return crop("semantic_map", logits, valid);
}

std::string encode_one(const Tensor& logits, Size size, float threshold) {
  if (isa() == Isa::kAvx512) return avx512::encode_logits(logits, size, threshold);
  if (isa() == Isa::kAvx2) return avx2::encode_logits(logits, size, threshold);
  return cpu::encode_logits(logits, size, threshold);
}

}  // namespace

void check_size(const char* op, const Size& size) {
  constexpr std::int64_t kMaxSide = 1 << 20;
  const auto [height, width] = size;
  VD_CHECK(height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide && height * width <= kMaxPixels, "[",
           op, "] size: expected sides of 1 to ", kMaxSide, " and at most ", kMaxPixels, " pixels, got (", height, ", ",
           width, ")");
}

std::vector<std::string> encode_logits(const Tensor& logits, const LogitsOptions& options, int num_threads) {
  const auto call = check_encode_logits(logits, options);
  const Tensor& used = call.first;
  const Size size = call.second;
  const std::int64_t n = used.rank() == 3 ? used.shape[0] : 1;
  if (const auto stream = device_of("encode_logits", {{"logits", &logits}})) {
    const Tensor stack = stacked(used);
    return cuda::read_texts("encode_logits", n, size.first, size.second, *stream, [&](const TextsOut& out) {
      cuda::encode_logits(stack, size, options.threshold, *stream, out);
    });
  }
  std::vector<std::string> texts(static_cast<std::size_t>(n));
  const double work =
      static_cast<double>(n * (used.size() / std::max<std::int64_t>(n, 1) + size.first * size.second / 8));
  parallel_for(n, choose_threads(num_threads, work), [&](std::int64_t i) {
    const Tensor& one = used.rank() == 3 ? used.select(0, i) : used;
    texts[static_cast<std::size_t>(i)] = encode_one(one, size, options.threshold);
  });
  return texts;
}

void encode_logits(const Tensor& logits, const LogitsOptions& options, const TextsOut& out) {
  const auto [used, size] = check_encode_logits(logits, options);
  const auto stream = device_of("encode_logits", {{"logits", &logits}});
  VD_CHECK(stream, "[encode_logits] out: only for logits on a CUDA device, got logits in CPU memory");
  cuda::encode_logits(stacked(used), size, options.threshold, *stream, out);
}

std::vector<std::string> semantic_map(const Tensor& logits, Size size, std::optional<Size> valid, std::uint8_t* map,
                                      std::int64_t* areas) {
  const Tensor used = check_semantic_map(logits, size, valid);
  if (const auto stream = device_of("semantic_map", {{"logits", &logits}})) {
    const std::int64_t classes = used.shape[0];
    cuda::semantic_map(used, size, *stream, map, areas);
    return cuda::read_texts("semantic_map", classes, size.first, size.second, *stream,
                            [&](const TextsOut& out) { cuda::encode_labels(map, size, classes, *stream, out); });
  }
  if (isa() == Isa::kAvx512) return avx512::semantic_map(used, size, map, areas);
  if (isa() == Isa::kAvx2) return avx2::semantic_map(used, size, map, areas);
  return cpu::semantic_map(used, size, map, areas);
}

void semantic_map(const Tensor& logits, Size size, std::optional<Size> valid, std::uint8_t* map, std::int64_t* areas,
                  const TextsOut& out) {
  const Tensor used = check_semantic_map(logits, size, valid);
  const auto stream = device_of("semantic_map", {{"logits", &logits}});
  VD_CHECK(stream, "[semantic_map] out: only for logits on a CUDA device, got logits in CPU memory");
  cuda::semantic_map(used, size, *stream, map, areas);
  cuda::encode_labels(map, size, used.shape[0], *stream, out);
}

}  // namespace visdeploy
