#pragma once

#include <cstdint>
#include <cstdlib>

#include "core/cuda.cuh"
#include "core/device_scan.cuh"
#include "ops/rle.h"

// Note [RLE on a device]
// A word of 64 bits says where 64 rows of a column differ from the pixel before each, which for the first row is the
// last one of the column to the left. Words stand in the order in which pixels are counted: masks, columns, rows. So
// the sum of the transitions in the words before one is the place of its own in the list of all run ends, and as a
// mask's last run ends behind its last pixel, where no transition is, masks need no other mark in that list. 32 counts
// of it are a group: the bytes of each are summed, the sums are summed up, and a warp that writes a group knows where.
namespace visdeploy::cuda {

constexpr int kWordRows = 64;
constexpr int kAtOnce = 8;  // rows that a thread asks for before it looks at them, to hide how long memory takes

// What neighbouring threads read: pixels of neighbouring columns, of the same column 64 rows further down, or of
// neighbouring masks.
enum class Neighbours { kColumns, kWords, kMasks };

struct MaskShape {
  std::int64_t masks, height, width;
  Neighbours neighbours = Neighbours::kColumns;

  __host__ __device__ std::int64_t column_words() const { return (height + kWordRows - 1) / kWordRows; }
  __host__ __device__ std::int64_t words() const { return masks * width * column_words(); }
  __host__ __device__ std::int64_t pixels() const { return height * width; }

  // Masks and columns are dealt out in tiles, of 32 along which neighbours lie.
  __host__ __device__ int mask_bits() const { return neighbours == Neighbours::kMasks ? 5 : 0; }
  __host__ __device__ int column_bits() const { return neighbours == Neighbours::kColumns ? 5 : 0; }
  __host__ __device__ static std::int64_t tiles(std::int64_t n, int bits) { return (n + (1 << bits) - 1) >> bits; }
  __host__ __device__ std::int64_t threads() const {
    return tiles(masks, mask_bits()) * tiles(width, column_bits()) * column_words() << (mask_bits() + column_bits());
  }
};

// Which of them lie next to each other in memory.
inline Neighbours nearest(const MaskShape& shape, const std::int64_t (&strides)[3]) {
  const auto step = [&](std::int64_t n, std::int64_t stride) { return n > 1 ? std::abs(stride) : INT64_MAX; };
  const std::int64_t masks = step(shape.masks, strides[0]), rows = step(shape.height, strides[1]),
                     columns = step(shape.width, strides[2]);
  if (columns <= masks && columns <= rows && shape.width > 1) return Neighbours::kColumns;
  return rows <= masks ? Neighbours::kWords : Neighbours::kMasks;
}

// The second half of encoding: from words, and the sums of transitions before each, to texts.
void write_texts(const MaskShape& shape, const std::uint64_t* words, const std::int64_t* before, Stream stream,
                 const TextsOut& out);

// One thread per word; 64 rows are long enough that what is kept for each word weighs little beside the pixels, and
// words without transitions, which most are, are neither written nor read. Samples give a mask's column, and that the
// value of a row, cheapest if called with rising rows.
template <class Samples>
__global__ void mark_kernel(Samples samples, MaskShape shape, std::uint64_t* words, std::uint32_t* counts) {
  const int mask_bits = shape.mask_bits(), column_bits = shape.column_bits();
  const std::int64_t column_words = shape.column_words(), column_tiles = MaskShape::tiles(shape.width, column_bits);
  for (std::int64_t i = grid_index(); i < shape.threads(); i += grid_step()) {
    const std::int64_t item = i >> (mask_bits + column_bits);
    const std::int64_t tile = item / column_words, first = item % column_words * kWordRows;
    const std::int64_t mask = (tile / column_tiles << mask_bits) + (i & ((1 << mask_bits) - 1));
    const std::int64_t x = (tile % column_tiles << column_bits) + (i & ((1 << column_bits) - 1));
    if (mask >= shape.masks || x >= shape.width) continue;
    auto column = samples.column(mask, x);
    auto before = first > 0 ? column.at(first - 1)
                  : x > 0   ? samples.column(mask, x - 1).at(shape.height - 1)
                            : samples.background();
    // From the top, so that the compiler shifts by constants.
    std::uint64_t bits = 0;
    const auto add = [&](auto value) {
      bits = bits >> 1 | static_cast<std::uint64_t>(value != before) << (kWordRows - 1);
      before = value;
    };
    const int rows = static_cast<int>(min(std::int64_t{kWordRows}, shape.height - first));
    int k = 0;
    for (; k + kAtOnce <= rows; k += kAtOnce) {
      decltype(before) values[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) values[j] = column.at(first + k + j);
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) add(values[j]);
    }
    for (; k < rows; ++k) add(column.at(first + k));
    bits >>= kWordRows - rows;
    const std::int64_t word = (mask * shape.width + x) * column_words + first / kWordRows;
    counts[word] = static_cast<std::uint32_t>(__popcll(bits));
    if (bits) words[word] = bits;
  }
}

template <class Samples>
void encode_samples(const Samples& samples, const MaskShape& shape, Stream stream, const TextsOut& out) {
  const std::int64_t n = shape.words();
  const Memory<std::uint64_t> words(stream, n);
  const Memory<std::int64_t> before(stream, n + 1);
  const Memory<std::uint32_t> counts(stream, n);
  launch(mark_kernel<Samples>, blocks_for(shape.threads()), kThreads, stream, samples, shape, words.data(),
         counts.data());
  exclusive_sum(counts.data(), n, stream, before.data());
  write_texts(shape, words.data(), before.data(), stream, out);
}

}  // namespace visdeploy::cuda
