#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

// Run-length encoded masks in COCO's layout, byte-compatible with pycocotools.mask.
namespace visdeploy {

// Lengths of the runs of a mask read column by column, background first. Decoded ones are checked: no count is
// negative and together they do not exceed height * width; where they fall short, the rest is background.
struct Rle {
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::int64_t> counts;

  std::int64_t pixels() const { return height * width; }
};

enum class Order { kColumn, kRow };

// Dense masks hold at most this many pixels; a larger one can only come from a hostile size.
constexpr std::int64_t kMaxPixels = (std::int64_t{1} << 32) - 1;

// Masks (H, W), (H, W, N) with axis = -1, or (N, H, W) with axis = 0; uint8 or bool, any strides. Gives the compressed
// counts of each. A run ends where the raw byte changes, as in pycocotools.
std::vector<std::string> encode(const Tensor& masks, int axis, int num_threads);

// Writes masks one after the other into out, which has room for all of them.
// kColumn lays each out as (W, H), which is Fortran order, kRow as (H, W).
void decode(const std::vector<Rle>& rles, Order order, std::uint8_t* out, int num_threads);

// What decode refuses, before anything is allocated for it: sizes that differ, and sizes beyond kMaxPixels.
void check_decode(const std::vector<Rle>& rles);

// Foreground pixels.
std::int64_t area(const Rle& rle);

// x, y, width and height of the tightest box in pixels, zeros where nothing is set.
void to_bbox(const Rle& rle, double* xywh);

// COCO's compressed string. parse takes one apart, or checks counts that came uncompressed.
std::string to_string(const Rle& rle);
Rle parse(std::string_view counts, std::int64_t height, std::int64_t width);
Rle parse(std::vector<std::int64_t> counts, std::int64_t height, std::int64_t width);

// Kaggle's "start length start length"; the first pixel has the number `base`.
std::string to_kaggle(const Rle& rle, Order order, std::int64_t base);
Rle from_kaggle(const std::string& text, std::int64_t height, std::int64_t width, Order order, std::int64_t base);

// The same mask mirrored at its diagonal, found from its runs alone.
Rle transpose(const Rle& rle);

// Implementations: what encode and decode do to one mask, and the same for floats, where what is above the threshold is
// foreground and NaN is not.
namespace cpu {
std::string encode(const Tensor& mask);
std::string encode_above(const Tensor& values, float threshold);
void decode(const Rle& rle, Order order, std::uint8_t* out);
}  // namespace cpu
namespace avx2 {
std::string encode(const Tensor& mask);
std::string encode_above(const Tensor& values, float threshold);
void decode(const Rle& rle, Order order, std::uint8_t* out);
}  // namespace avx2
namespace avx512 {
// Reads numbers of the compressed text from character i on, as long as they are short and all is well; moves i behind
// them and returns how many they are.
std::size_t read_changes(std::string_view text, std::size_t& i, std::int64_t* out);
std::string encode(const Tensor& mask);
std::string encode_above(const Tensor& values, float threshold);
void decode(const Rle& rle, Order order, std::uint8_t* out);
}  // namespace avx512

}  // namespace visdeploy
