#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
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

// A mask as it arrives: COCO's compressed string, which somebody else keeps, or counts. Unchecked but for the size.
struct Encoded {
  Encoded(std::int64_t height, std::int64_t width, std::variant<std::string_view, std::vector<std::int64_t>> counts);

  std::int64_t height, width;
  std::variant<std::string_view, std::vector<std::int64_t>> counts;

  std::int64_t pixels() const { return height * width; }
};

// A compressed text that has been read up to `text`. The next count is written as its difference to `before`, and the
// one after it as that to `last`; `left` pixels belong to no run yet.
struct CountsText {
  const char *text, *end;
  std::int64_t left, before, last;
};

// Reads the counts of an Encoded, and checks them, a block at a time.
class Counts {
 public:
  static constexpr std::size_t kBlock = 1024, kAtOnce = 64;
  struct Block {
    const std::int64_t *begin, *end;
  };

  // Keeps a reference to the mask.
  explicit Counts(const Encoded& mask);

  // An empty one says that all are read.
  Block next();

 private:
  std::int64_t read_carefully();

  const Encoded& mask_;
  CountsText text_;
  std::size_t read_ = 0;  // numbers, where it is no text
  std::int64_t block_[kBlock];
};

enum class Order { kColumn, kRow };

// Dense masks hold at most this many pixels; a larger one can only come from a hostile size.
constexpr std::int64_t kMaxPixels = (std::int64_t{1} << 32) - 1;

// Masks (H, W), (H, W, N) with axis = -1, or (N, H, W) with axis = 0; uint8 or bool, any strides. Gives the compressed
// counts of each. A run ends where the raw byte changes, as in pycocotools.
std::vector<std::string> encode(const Tensor& masks, int axis, int num_threads);

// Where texts go on a device: one after the other, text i of n from offsets[i] to offsets[i + 1]. Nothing is written
// past the capacity; offsets[n] is the one that is needed, or more than that where there are more runs than bytes.
struct TextsOut {
  char* text;
  std::int64_t capacity;
  std::int64_t* offsets;  // n + 1 of them
};

// The same of masks on a device, without waiting for it.
void encode(const Tensor& masks, int axis, const TextsOut& out);

// Writes masks one after the other into out, which has room for all of them.
// kColumn lays each out as (W, H), which is Fortran order, kRow as (H, W).
void decode(const std::vector<Encoded>& masks, Order order, std::uint8_t* out, int num_threads);

// What decode refuses, before anything is allocated for it: sizes that differ, and sizes beyond kMaxPixels.
void check_decode(const std::vector<Encoded>& masks);

// Foreground pixels.
std::int64_t area(const Encoded& mask);

// x, y, width and height of the tightest box in pixels, zeros where nothing is set.
void to_bbox(const Encoded& mask, double* xywh);

// COCO's compressed string, of counts or of the positions at which n runs end, and back.
std::string to_string(const Rle& rle);
std::string to_string(const std::uint32_t* ends, std::size_t n);
Rle parse(const Encoded& mask);

// Kaggle's "start length start length"; the first pixel has the number `base`.
std::string to_kaggle(const Rle& rle, Order order, std::int64_t base);
Rle from_kaggle(const std::string& text, std::int64_t height, std::int64_t width, Order order, std::int64_t base);

// The same mask mirrored at its diagonal, found from its runs alone.
Rle transpose(const Rle& rle);

// Implementations: what encode and decode do to one mask, and the same for floats, where what is above the threshold is
// foreground and NaN is not.
//
// read_counts: reads counts of a text, not the first one and of at most kMaxPixels, as long as there is room for
// Counts::kAtOnce and nothing is unusual about what comes; says how many it has read.
namespace cpu {
std::size_t read_counts(CountsText& counts, std::int64_t* out, std::size_t room);
std::string to_string(const std::uint32_t* ends, std::size_t n);
std::string encode(const Tensor& mask);
std::string encode_above(const Tensor& values, float threshold);
void decode(const Encoded& mask, Order order, std::uint8_t* out);
}  // namespace cpu
namespace avx2 {
std::string to_string(const std::uint32_t* ends, std::size_t n);
std::string encode(const Tensor& mask);
std::string encode_above(const Tensor& values, float threshold);
void decode(const Encoded& mask, Order order, std::uint8_t* out);
}  // namespace avx2
namespace avx512 {
std::size_t read_counts(CountsText& counts, std::int64_t* out, std::size_t room);
std::string to_string(const std::uint32_t* ends, std::size_t n);
std::string encode(const Tensor& mask);
std::string encode_above(const Tensor& values, float threshold);
void decode(const Encoded& mask, Order order, std::uint8_t* out);
}  // namespace avx512

// encode: of masks (N, H, W). read_texts: what `encode`, of the named op, writes for n masks of a size, brought to the
// host; `encode` is called with the capacity that masks usually need, and again where that was too little. Waits once
// for each call.
namespace cuda {
void encode(const Tensor& masks, Stream stream, const TextsOut& out);
std::vector<std::string> read_texts(const char* op, std::int64_t n, std::int64_t height, std::int64_t width,
                                    Stream stream, const std::function<void(const TextsOut&)>& encode);
}  // namespace cuda

}  // namespace visdeploy
