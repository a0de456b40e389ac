#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "ops/rle.h"

// From float32 logits at model resolution to labels at image resolution: upsampled bilinearly (half-pixel centres,
// edge clamp), without a float image of the larger size.
namespace visdeploy {

using Size = std::pair<std::int64_t, std::int64_t>;  // height, width

// What is above the threshold is foreground; NaN is not.
struct LogitsOptions {
  std::optional<Size> size;   // of the result; none: that of the logits
  std::optional<Size> valid;  // the top-left part of the logits to use; none: all
  float threshold = 0;
};

// Logits (h, w) or (N, h, w) to the compressed counts of N masks.
std::vector<std::string> encode_logits(const Tensor& logits, const LogitsOptions& options, int num_threads);

void encode_logits(const Tensor& logits, const LogitsOptions& options, const TextsOut& out);

// Logits (C, h, w), 1 <= C <= 255, to the class with the greatest value at each pixel, written to map, which has room
// for the size, and the pixels of each class, written to areas. Ties take the lower class, NaN never wins, and a pixel
// that is NaN in every class gets class 0. Gives the compressed counts of a mask for each class, absent ones included.
// Map and areas lie where the logits do.
std::vector<std::string> semantic_map(const Tensor& logits, Size size, std::optional<Size> valid, std::uint8_t* map,
                                      std::int64_t* areas);
void semantic_map(const Tensor& logits, Size size, std::optional<Size> valid, std::uint8_t* map, std::int64_t* areas,
                  const TextsOut& out);

// The output size of a call, checked, so that the caller can make room for it.
void check_size(const char* op, const Size& size);

// Implementations, of one mask.
namespace cpu {
std::string encode_logits(const Tensor& logits, Size size, float threshold);
std::vector<std::string> semantic_map(const Tensor& logits, Size size, std::uint8_t* map, std::int64_t* areas);
}  // namespace cpu
namespace avx2 {
std::string encode_logits(const Tensor& logits, Size size, float threshold);
std::vector<std::string> semantic_map(const Tensor& logits, Size size, std::uint8_t* map, std::int64_t* areas);
}  // namespace avx2
namespace avx512 {
std::string encode_logits(const Tensor& logits, Size size, float threshold);
std::vector<std::string> semantic_map(const Tensor& logits, Size size, std::uint8_t* map, std::int64_t* areas);
}  // namespace avx512

// Of N masks (N, h, w), and the two steps of a semantic map.
namespace cuda {
void encode_logits(const Tensor& logits, Size size, float threshold, Stream stream, const TextsOut& out);
void semantic_map(const Tensor& logits, Size size, Stream stream, std::uint8_t* map, std::int64_t* areas);
void encode_labels(const std::uint8_t* map, Size size, std::int64_t classes, Stream stream, const TextsOut& out);
}  // namespace cuda

}  // namespace visdeploy
