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

struct SemanticMap {
  std::vector<std::int64_t> areas;  // pixels of each class
  std::vector<std::string> counts;  // compressed, one mask for each class, absent ones included
};

// Logits (C, h, w), 1 <= C <= 255, to the class with the greatest value at each pixel, written to map, which has room
// for the size. Ties take the lower class, NaN never wins, and a pixel that is NaN in every class gets class 0.
SemanticMap semantic_map(const Tensor& logits, Size size, std::optional<Size> valid, std::uint8_t* map);

// The output size of a call, checked, so that the caller can make room for it.
void check_size(const char* op, const Size& size);

// Implementations, of one mask.
namespace cpu {
std::string encode_logits(const Tensor& logits, Size size, float threshold);
SemanticMap semantic_map(const Tensor& logits, Size size, std::uint8_t* map);
}  // namespace cpu
namespace avx2 {
std::string encode_logits(const Tensor& logits, Size size, float threshold);
SemanticMap semantic_map(const Tensor& logits, Size size, std::uint8_t* map);
}  // namespace avx2
namespace avx512 {
std::string encode_logits(const Tensor& logits, Size size, float threshold);
SemanticMap semantic_map(const Tensor& logits, Size size, std::uint8_t* map);
}  // namespace avx512

}  // namespace visdeploy
