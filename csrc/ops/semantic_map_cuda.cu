#include <cmath>

#include "ops/rle_cuda.cuh"
#include "ops/semantic_map.h"

namespace visdeploy::cuda {

#include "ops/tap.h"

namespace {

// Float32 logits of N masks, or C classes: (N, h, w).
struct Logits {
  explicit Logits(const Tensor& tensor)
      : data(tensor.at<std::byte>(0)),
        height(tensor.shape[1]),
        width(tensor.shape[2]),
        strides{tensor.strides[0], tensor.strides[1], tensor.strides[2]} {}

  __device__ float at(std::int64_t n, std::int64_t y, std::int64_t x) const {
    return *reinterpret_cast<const float*>(data + n * strides[0] + y * strides[1] + x * strides[2]);
  }

  const std::byte* data;
  std::int64_t height, width;
  std::int64_t strides[3];
};

struct Taps {
  const Tap *rows, *columns;
};

// One thread per output position along an axis.
__global__ void taps_kernel(std::int64_t n, double scale, std::int64_t source, Tap* out) {
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) out[i] = tap(i, scale, source);
}

// The taps of both axes: kernels that looked them up for every pixel would be kept busy by doubles.
class TapsOfAxes {
 public:
  TapsOfAxes(const Logits& logits, Size size, Stream stream)
      : height_(size.first), taps_(stream, height_ + size.second) {
    const auto axis = [&](std::int64_t source, std::int64_t n, Tap* out) {
      const double scale = static_cast<double>(source) / static_cast<double>(n);
      launch(taps_kernel, blocks_for(n), kThreads, stream, n, scale, source, out);
    };
    axis(logits.height, size.first, taps_.data());
    axis(logits.width, size.second, taps_.data() + height_);
  }

  Taps get() const { return {taps_.data(), taps_.data() + height_}; }

 private:
  std::int64_t height_;
  Memory<Tap> taps_;
};

// Samples of a mask: logits above the threshold.
struct Above {
  struct Column {
    __device__ bool at(std::int64_t y) const { return logits.at(mask, y, x) > threshold; }

    const Logits& logits;
    std::int64_t mask, x;
    float threshold;
  };

  __device__ Column column(std::int64_t mask, std::int64_t x) const { return {logits, mask, x, threshold}; }
  __device__ bool background() const { return false; }

  Logits logits;
  float threshold;
};

// The same of resampled logits. See Note [Labels before pixels] in taps.h: corners that agree must decide here, too,
// because what rounding makes of their mean may lie on the other side of the threshold.
struct ResampledAbove {
  // A source row near a column: its corners of the cell, are they above, and its logit at the column.
  struct SourceRow {
    std::int64_t index;
    bool left, right;
    float value;
  };

  class Column {
   public:
    __device__ Column(const ResampledAbove& samples, std::int64_t mask, std::int64_t x)
        : samples_(samples), mask_(mask), tap_(samples.taps.columns[x]), low_{-1, false, false, 0}, high_(low_) {}

    __device__ bool at(std::int64_t y) {
      const Tap row = samples_.taps.rows[y];
      if (row.low != low_.index) low_ = row.low == high_.index ? high_ : read(row.low);
      if (row.high() != high_.index) high_ = row.high() == row.low ? low_ : read(row.high());
      const bool agree = low_.left == low_.right && low_.left == high_.left && high_.left == high_.right;
      return agree ? low_.left : between(low_.value, high_.value, row.weight) > samples_.threshold;
    }

   private:
    __device__ SourceRow read(std::int64_t y) const {
      const Logits& logits = samples_.logits;
      const float left = finite(logits.at(mask_, y, tap_.low));
      const float right = tap_.low + 1 < logits.width ? finite(logits.at(mask_, y, tap_.low + 1)) : left;
      return {y, left > samples_.threshold, right > samples_.threshold,
              between(left, tap_.weight > 0 ? right : left, tap_.weight)};
    }

    const ResampledAbove& samples_;
    std::int64_t mask_;
    Tap tap_;
    SourceRow low_, high_;
  };

  __device__ Column column(std::int64_t mask, std::int64_t x) const { return {*this, mask, x}; }
  __device__ bool background() const { return false; }

  Logits logits;
  Taps taps;
  float threshold;
};

// Samples of the mask of a class: the pixels that have its label.
struct Labels {
  struct Column {
    __device__ bool at(std::int64_t y) const { return data[y * width] == label; }

    const std::uint8_t* data;
    std::int64_t width;
    std::uint8_t label;
  };

  __device__ Column column(std::int64_t mask, std::int64_t x) const {
    return {map + x, width, static_cast<std::uint8_t>(mask)};
  }
  __device__ bool background() const { return false; }

  const std::uint8_t* map;
  std::int64_t width;
};

// The class whose value exceeds those of all before it; 0 where all are NaN.
template <class Value>
__device__ std::uint8_t best_class(int classes, const Value& value) {
  float best = -INFINITY;
  int label = 0;
  for (int c = 0; c < classes; ++c) {
    const float v = value(c);
    if (!(v > best)) continue;
    best = v;
    label = c;
  }
  return static_cast<std::uint8_t>(label);
}

// One thread per logit of a class; neighbours read neighbours, of one class after the other.
__global__ void source_labels_kernel(Logits logits, int classes, std::uint8_t* labels) {
  const std::int64_t n = logits.height * logits.width;
  for (std::int64_t i = grid_index(); i < n; i += grid_step()) {
    const std::int64_t y = i / logits.width, x = i % logits.width;
    labels[i] = best_class(classes, [&](int c) { return finite(logits.at(c, y, x)); });
  }
}

// One thread per pixel. All logits are read only where a border passes; see Note [Labels before pixels] in taps.h.
// Pixels are counted by warp, then by block, as neighbours mostly have the same label.
__global__ void map_kernel(Logits logits, int classes, Taps taps, const std::uint8_t* labels, std::int64_t height,
                           std::int64_t width, std::uint8_t* map, unsigned long long* areas) {
  __shared__ unsigned counts[256];
  for (int c = static_cast<int>(threadIdx.x); c < 256; c += static_cast<int>(blockDim.x)) counts[c] = 0;
  __syncthreads();
  const std::int64_t n = height * width;
  for (std::int64_t first = grid_index() - threadIdx.x; first < n; first += grid_step()) {
    const std::int64_t i = first + threadIdx.x;
    int label = -1;
    if (i < n) {
      const Tap row = taps.rows[i / width], column = taps.columns[i % width];
      const std::uint8_t *low = labels + row.low * logits.width + column.low,
                         *high = labels + row.high() * logits.width + column.low;
      const int right = column.low + 1 < logits.width ? 1 : 0;
      const bool agree = low[0] == low[right] && low[0] == high[0] && high[0] == high[right];
      const bool on_sample = row.weight == 0 && column.weight == 0;
      label = agree || on_sample ? low[0] : best_class(classes, [&](int c) {
        const auto value = [&](std::int64_t y) {
          return between(finite(logits.at(c, y, column.low)), finite(logits.at(c, y, column.high())), column.weight);
        };
        return between(value(row.low), value(row.high()), row.weight);
      });
      map[i] = static_cast<std::uint8_t>(label);
    }
    const unsigned same = __match_any_sync(0xffffffff, label);
    const bool speaks = __ffs(static_cast<int>(same)) - 1 == static_cast<int>(threadIdx.x % 32);
    if (label >= 0 && speaks) atomicAdd(counts + label, static_cast<unsigned>(__popc(same)));
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < classes; c += static_cast<int>(blockDim.x)) {
    if (counts[c]) atomicAdd(areas + c, static_cast<unsigned long long>(counts[c]));
  }
}

}  // namespace

void encode_logits(const Tensor& tensor, Size size, float threshold, Stream stream, const TextsOut& out) {
  const Scope scope("encode_logits", stream);
  const Logits logits(tensor);
  MaskShape shape{tensor.shape[0], size.first, size.second};
  if (size == Size{logits.height, logits.width}) {
    shape.neighbours = nearest(shape, logits.strides);
    encode_samples(Above{logits, threshold}, shape, stream, out);
  } else {
    const TapsOfAxes taps(logits, size, stream);
    encode_samples(ResampledAbove{logits, taps.get(), threshold}, shape, stream, out);
  }
}

void semantic_map(const Tensor& tensor, Size size, Stream stream, std::uint8_t* map, std::int64_t* areas) {
  const Scope scope("semantic_map", stream);
  const Logits logits(tensor);
  const auto classes = static_cast<int>(tensor.shape[0]);
  const std::int64_t samples = logits.height * logits.width, pixels = size.first * size.second;
  const Memory<std::uint8_t> labels(stream, samples);
  const TapsOfAxes taps(logits, size, stream);
  VD_CUDA(cudaMemsetAsync(areas, 0, static_cast<std::size_t>(classes) * sizeof(*areas), handle(stream)));
  launch(source_labels_kernel, blocks_for(samples), kThreads, stream, logits, classes, labels.data());
  launch(map_kernel, blocks_for(pixels), kThreads, stream, logits, classes, taps.get(), labels.data(), size.first,
         size.second, map, reinterpret_cast<unsigned long long*>(areas));
}

void encode_labels(const std::uint8_t* map, Size size, std::int64_t classes, Stream stream, const TextsOut& out) {
  const Scope scope("semantic_map", stream);
  encode_samples(Labels{map, size.second}, {classes, size.first, size.second}, stream, out);
}

}  // namespace visdeploy::cuda
