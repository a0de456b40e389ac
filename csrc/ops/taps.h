// See Note [Code for one instruction set] in bits_cpu.h.

// Note [Labels before pixels]
// A bilinear value lies between its four corners. So where all four agree on a label (the class that is greatest, or
// the side of a threshold), every pixel between them has it too, and only the cells that a border crosses need their
// values computed. Borders are thin: most of the work is one look at each logit.

namespace {

// The two source samples of each output position along one axis, and the weight of the second.
struct Taps {
  Taps(std::int64_t source, std::int64_t target);

  // Writes the values at output positions from `first` to before `last`.
  void stretch(const float* values, std::int64_t first, std::int64_t last, float* wide) const {
    for (auto x = static_cast<std::size_t>(first); x < static_cast<std::size_t>(last); ++x) {
      wide[x] = between(values[low[x]], values[high[x]], weight[x]);
    }
  }

  std::vector<std::int32_t> low, high;
  std::vector<float> weight;
  std::vector<std::int64_t> begin;  // of each source position: the first output position not before it
};

inline Taps::Taps(std::int64_t source, std::int64_t target)
    : low(static_cast<std::size_t>(target)), high(low.size()), weight(low.size()) {
  const double scale = static_cast<double>(source) / static_cast<double>(target);
  for (std::size_t i = 0; i < low.size(); ++i) {
    const Tap at = tap(static_cast<std::int64_t>(i), scale, source);
    low[i] = at.low;
    high[i] = at.high();
    weight[i] = at.weight;
  }
  for (std::int64_t x = 0, cell = 0; cell <= source; ++cell) {
    while (x < target && low[static_cast<std::size_t>(x)] < cell) ++x;
    begin.push_back(x);
  }
}

// Reads a row of n logits, whatever their stride and alignment.
inline void read_row(const std::byte* source, std::int64_t stride, std::int64_t n, float* values) {
  const auto copy = [&](std::int64_t step) {
    for (std::int64_t x = 0; x < n; ++x) {
      float logit;
      std::memcpy(&logit, source + x * step, sizeof(logit));
      values[x] = finite(logit);
    }
  };
  // The same loop twice, because the compiler vectorises a step that it knows.
  stride == sizeof(float) ? copy(sizeof(float)) : copy(stride);
}

}  // namespace
