#include "ops/rle_cuda.cuh"

namespace visdeploy::cuda {
namespace {

constexpr unsigned kWarp = 0xffffffff;

struct Bytes {
  struct Column {
    __device__ std::uint8_t at(std::int64_t y) const { return data[y * stride]; }

    const std::uint8_t* data;
    std::int64_t stride;
  };

  __device__ Column column(std::int64_t mask, std::int64_t x) const {
    return {data + mask * strides[0] + x * strides[2], strides[1]};
  }
  __device__ std::uint8_t background() const { return 0; }

  const std::uint8_t* data;
  std::int64_t strides[3];
};

// The run ends of all masks, one after the other. There are none here if they exceed what there is room for.
struct Runs {
  MaskShape shape;
  const std::int64_t* before;  // transitions before each word, and all of them
  std::uint32_t* ends;
  std::int64_t room;

  __device__ std::int64_t total() const { return before[shape.words()] + shape.masks; }
  __device__ std::int64_t present() const { return total() <= room ? total() : 0; }
  __device__ std::int64_t first(std::int64_t mask) const {
    return before[mask * shape.width * shape.column_words()] + mask;
  }

  __device__ bool ends_mask(std::int64_t run) const {
    return run < 0 || ends[run] == static_cast<std::uint32_t>(shape.pixels());
  }
  // Pixels of a run that is not the first one of its mask.
  __device__ std::int64_t count(std::int64_t run) const { return static_cast<std::int64_t>(ends[run] - ends[run - 1]); }
  // What COCO writes for a run: its pixels, from the fourth run on less those of the run two before.
  __device__ std::int64_t change(std::int64_t run) const {
    if (ends_mask(run - 1)) return static_cast<std::int64_t>(ends[run]);
    if (ends_mask(run - 2) || ends_mask(run - 3)) return count(run);
    return count(run) - count(run - 2);
  }
};

// Groups of five bits that x takes, of which one is its sign.
__device__ int length_of(std::int64_t x) {
  const auto magnitude = static_cast<long long>((x ^ (x >> 63)) | 1);
  return (65 - __clzll(magnitude) + 4) / 5;
}

// One thread per word; those without transitions, which most are, touch nothing but the sums. And one per mask.
__global__ void ends_kernel(Runs runs, const std::uint64_t* words) {
  if (runs.present() == 0) return;
  const MaskShape shape = runs.shape;
  for (std::int64_t i = grid_index(); i < shape.words(); i += grid_step()) {
    const std::int64_t place = runs.before[i];
    if (runs.before[i + 1] == place) continue;
    const std::int64_t column = i / shape.column_words(), mask = column / shape.width;
    const std::int64_t first = column % shape.width * shape.height + i % shape.column_words() * kWordRows;
    std::uint32_t* end = runs.ends + place + mask;
    for (std::uint64_t bits = words[i]; bits; bits &= bits - 1) {
      *end++ = static_cast<std::uint32_t>(first + __ffsll(static_cast<long long>(bits)) - 1);
    }
  }
  for (std::int64_t mask = grid_index(); mask < shape.masks; mask += grid_step()) {
    runs.ends[runs.first(mask + 1) - 1] = static_cast<std::uint32_t>(shape.pixels());
  }
}

// A warp per group of 32 runs, a thread for each; neighbours read neighbours.
__global__ void lengths_kernel(Runs runs, std::uint32_t* lengths) {
  const std::int64_t present = runs.present(), slots = (runs.room + 31) / 32 * 32;
  for (std::int64_t i = grid_index(); i < slots; i += grid_step()) {
    int sum = i < present ? length_of(runs.change(i)) : 0;
    for (int other = 16; other > 0; other /= 2) sum += __shfl_xor_sync(kWarp, sum, other);
    if (i % 32 == 0) lengths[i / 32] = static_cast<std::uint32_t>(sum);
  }
}

// A warp per group of 32 runs, a thread for each; the bytes of neighbours adjoin.
__global__ void texts_kernel(Runs runs, const std::int64_t* starts, char* text, std::int64_t capacity) {
  const std::int64_t present = runs.present(), slots = (present + 31) / 32 * 32;
  for (std::int64_t i = grid_index(); i < slots; i += grid_step()) {
    std::int64_t x = i < present ? runs.change(i) : 0;
    const int length = i < present ? length_of(x) : 0, lane = static_cast<int>(i % 32);
    int end = length;
    for (int step = 1; step < 32; step *= 2) {
      const int left = __shfl_up_sync(kWarp, end, step);
      if (lane >= step) end += left;
    }
    const std::int64_t start = starts[i / 32] + end - length;
    if (start + length > capacity) continue;
    for (int k = 0; k < length; ++k, x >>= 5) {
      text[start + k] = static_cast<char>(48 + (x & 0x1f) + (k + 1 < length ? 0x20 : 0));
    }
  }
}

// One thread per mask, and one for the end; a text begins within a group, whose runs before it are few.
__global__ void offsets_kernel(Runs runs, const std::int64_t* starts, std::int64_t* offsets) {
  // Bytes beyond the first of each count are at most a sixteenth of its change, and the changes of a mask, being
  // differences of its counts, sum up to at most twice its pixels.
  constexpr std::int64_t kMostBytes = 7;
  const bool present = runs.total() <= runs.room;
  for (std::int64_t mask = grid_index(); mask <= runs.shape.masks; mask += grid_step()) {
    const std::int64_t run = runs.first(mask);
    if (!present) {
      offsets[mask] = min(kMostBytes * run, run + mask * (runs.shape.pixels() / 8));
      continue;
    }
    std::int64_t offset = starts[run / 32];
    for (std::int64_t i = run / 32 * 32; i < run; ++i) offset += length_of(runs.change(i));
    offsets[mask] = offset;
  }
}

}  // namespace

void write_texts(const MaskShape& shape, const std::uint64_t* words, const std::int64_t* before, Stream stream,
                 const TextsOut& out) {
  // A run takes at least a byte, so that more runs than bytes do not fit anyway.
  const std::int64_t groups = (out.capacity + 31) / 32;
  const Memory<std::uint32_t> ends(stream, out.capacity), lengths(stream, groups);
  const Memory<std::int64_t> starts(stream, groups + 1);
  const Runs runs{shape, before, ends.data(), out.capacity};
  launch(ends_kernel, blocks_for(std::max(shape.words(), shape.masks)), kThreads, stream, runs, words);
  launch(lengths_kernel, blocks_for(groups * 32), kThreads, stream, runs, lengths.data());
  exclusive_sum(lengths.data(), groups, stream, starts.data());
  launch(texts_kernel, blocks_for(groups * 32), kThreads, stream, runs, starts.data(), out.text, out.capacity);
  launch(offsets_kernel, blocks_for(shape.masks + 1), kThreads, stream, runs, starts.data(), out.offsets);
}

void encode(const Tensor& masks, Stream stream, const TextsOut& out) {
  const Scope scope("encode", stream);
  MaskShape shape{masks.shape[0], masks.shape[1], masks.shape[2]};
  Bytes bytes{masks.at<std::uint8_t>(0), {masks.strides[0], masks.strides[1], masks.strides[2]}};
  // A mask whose pixels lie in the order in which they are counted is one column.
  const std::int64_t down = bytes.strides[1], right = bytes.strides[2];
  if (shape.height == 1 || right == shape.height * down) {
    if (shape.height == 1) bytes.strides[1] = right;
    shape.height *= shape.width;
    shape.width = 1;
  }
  shape.neighbours = nearest(shape, bytes.strides);
  encode_samples(bytes, shape, stream, out);
}

}  // namespace visdeploy::cuda
