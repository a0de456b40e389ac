// Included by each instruction set inside its own namespace, where it has defined Wide, one of its registers of
// doubles.

namespace {

Wide load(const double* from) {
  Wide values;
  std::memcpy(&values, from, sizeof(values));
  return values;
}

// As fmin and fmax: where one is NaN the answer is the other.
Wide lesser(Wide a, Wide b) { return (b < a) | (a != a) ? b : a; }
Wide greater(Wide a, Wide b) { return (b > a) | (a != a) ? b : a; }

}  // namespace

void box_iou_row(const Boxes& dt, const double* gt, bool crowd, double* out) {
  constexpr std::size_t kLanes = sizeof(Wide) / sizeof(double);
  const Wide zero{}, left = zero + gt[0], top = zero + gt[1], right = zero + (gt[2] + gt[0]),
                     bottom = zero + (gt[3] + gt[1]), area = zero + gt[2] * gt[3];
  for (std::size_t d = 0; d < dt.n; d += kLanes) {
    const Wide w = lesser(load(dt.right() + d), right) - greater(load(dt.left() + d), left);
    const Wide h = lesser(load(dt.bottom() + d), bottom) - greater(load(dt.top() + d), top);
    const Wide common = w * h, own = load(dt.area() + d);
    // Not "w > 0 and h > 0": NaN goes through, as in pycocotools.
    const Wide value = (w <= 0) | (h <= 0) ? zero : common / (crowd ? own : own + area - common);
    if (dt.n - d >= kLanes) {
      std::memcpy(out + d, &value, sizeof(value));
    } else {
      std::memcpy(out + d, &value, (dt.n - d) * sizeof(double));
    }
  }
}
