// No include guard: files include this inside their own namespaces. For a GPU VD_INLINE says that functions run there.
#ifndef VD_INLINE
#define VD_INLINE static inline
#endif

// Note [Resizing in whole numbers]
// Each way to resize is a weighted mean of neighbours, with weights of rows times weights of columns. With the sizes
// before and after as denominators all weights are whole numbers, so that every machine has the same exact mean, and
// rounds it once, half up. OpenCV rounds weights and means of its own, and lands at most one level away.

// The source pixels that make one, along one axis.
struct Taps {
  std::int64_t first, last;
  std::uint32_t at_first, between, at_last;  // weights; of a single pixel `at_first`
  std::uint32_t total;
};

VD_INLINE Taps taps(Interpolation interpolation, std::int64_t i, std::int64_t from, std::int64_t to) {
  const auto weight = [](std::int64_t value) { return static_cast<std::uint32_t>(value); };
  if (interpolation == Interpolation::kNearest) {
    // OpenCV's arithmetic, which decides which pixel it is.
    const double step = 1 / (static_cast<double>(to) / static_cast<double>(from));
    const auto at = static_cast<std::int64_t>(static_cast<double>(i) * step);
    const std::int64_t nearest = at < from - 1 ? at : from - 1;
    return {nearest, nearest, 1, 0, 0, 1};
  }
  if (interpolation == Interpolation::kArea) {
    const std::int64_t begin = i * from, end = begin + from, first = begin / to, last = (end - 1) / to;
    if (first == last) return {first, last, weight(from), 0, 0, weight(from)};
    return {first, last, weight((first + 1) * to - begin), weight(to), weight(end - last * to), weight(from)};
  }
  const std::int64_t centre = (2 * i + 1) * from - to, first = centre / (2 * to), rest = centre % (2 * to);
  if (centre < 0) return {0, 0, weight(2 * to), 0, 0, weight(2 * to)};
  if (first >= from - 1) return {from - 1, from - 1, weight(2 * to), 0, 0, weight(2 * to)};
  return {first, first + 1, weight(2 * to - rest), 0, weight(rest), weight(2 * to)};
}

VD_INLINE std::uint32_t weight_of(const Taps& taps, std::int64_t i) {
  return i == taps.first ? taps.at_first : i == taps.last ? taps.at_last : taps.between;
}

// An image (H, W, 3) of any strides, and what becomes of it.
struct Resize {
  const std::uint8_t* image;
  std::int64_t strides[3];
  std::int64_t height, width;
  Letterbox to;
};

// Writes the pixel at a row and a column of the result.
template <class T>
VD_INLINE void write_pixel(const Resize& resize, std::int64_t row, std::int64_t column, T* out) {
  if (row >= resize.to.valid_height || column >= resize.to.valid_width) {
    for (int c = 0; c < 3; ++c) out[c] = static_cast<T>(resize.to.pad_value);
    return;
  }
  const Taps rows = taps(resize.to.interpolation, row, resize.height, resize.to.valid_height);
  const Taps columns = taps(resize.to.interpolation, column, resize.width, resize.to.valid_width);
  std::uint64_t sums[3] = {};
  for (std::int64_t y = rows.first; y <= rows.last; ++y) {
    std::uint32_t row_sums[3] = {};
    for (std::int64_t x = columns.first; x <= columns.last; ++x) {
      const std::uint8_t* pixel = resize.image + y * resize.strides[0] + x * resize.strides[1];
      const std::uint32_t weight = weight_of(columns, x);
      for (int c = 0; c < 3; ++c) row_sums[c] += weight * pixel[c * resize.strides[2]];
    }
    for (int c = 0; c < 3; ++c) sums[c] += std::uint64_t{weight_of(rows, y)} * row_sums[c];
  }
  const std::uint64_t total = std::uint64_t{rows.total} * columns.total;
  for (int c = 0; c < 3; ++c) out[c] = static_cast<T>((sums[c] + total / 2) / total);
}

static inline Resize resize_of(const Tensor& image, const Letterbox& to) {
  return {image.at<std::uint8_t>(0),
          {image.strides[0], image.strides[1], image.strides[2]},
          image.shape[0],
          image.shape[1],
          to};
}
