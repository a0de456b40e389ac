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
