// Greedy suppression, written once: each instruction set includes this file inside its own namespace and target region,
// after it has defined `Lanes<T>`, so no include guard and no includes here.

// Note [Suppression]
// With a threshold of at least zero a box takes part only if its sides are positive and its area is positive and
// finite: otherwise its intersection is zero or its union is infinite or NaN, so it neither drops a box nor is dropped.
//
// Each box is compared with the boxes kept so far, in blocks of one vector. The comparison is a filter without
// division: with rounding left aside, IoU > t says inter > t / (1 + t) * (area_a + area_b), and the factor is taken a
// little smaller than rounding could make it. What passes is decided by `exceeds`, the one definition of the rule.
//
// Where many are kept they are filed by size and place. IoU > t bounds the ratio of the widths by t and 1 / t and the
// distance of the centres by (w_a + w_b) / 2 - t max(w_a, w_b); the same for heights. Boxes whose longer sides lie
// within a factor of four share a grid, whose cells are large enough for that distance to reach into two of them along
// each axis. So a box can only be dropped by those of four cells of a few grids; a huge box is filed once and stays out
// of the way of small ones. Where very many are kept, the crowd in a cell costs more than looking into further grids,
// and there is one for each pair of width and height. Cells share the buckets of a hash table without keys: a box from
// another cell is one more comparison and no error.
//
// Which boxes overlap cannot be foretold, so a wrong guess costs more than a few comparisons: there are no branches
// until a batch of blocks has been compared.

// Relative slack of filter and geometry, far beyond the rounding of either precision.
constexpr double kSlack = 1e-5;

template <class T>
struct Box {
  T x1, y1, x2, y2;

  T width() const { return x2 - x1; }
  T height() const { return y2 - y1; }
  T area() const { return width() * height(); }
};

// The rule, in the order of operations that torchvision's CPU op has.
template <class T>
bool exceeds(const Box<T>& a, const Box<T>& b, double threshold) {
  const T w = std::max(T{0}, std::min(a.x2, b.x2) - std::max(a.x1, b.x1));
  const T h = std::max(T{0}, std::min(a.y2, b.y2) - std::max(a.y1, b.y1));
  const T inter = w * h;
  return inter / (a.area() + b.area() - inter) > threshold;
}

// Boxes side by side. Places that are not filled hold a share that nothing exceeds.
template <class T>
struct alignas(64) Block {
  static constexpr int kSize = Lanes<T>::kSize;

  T x1[kSize], y1[kSize], x2[kSize], y2[kSize], share[kSize];
  std::uint32_t used = 0, next = 0;

  Block() { std::fill_n(share, kSize, std::numeric_limits<T>::infinity()); }

  Box<T> box(int lane) const { return {x1[lane], y1[lane], x2[lane], y2[lane]}; }

  void add(const Box<T>& b, T its_share) {
    x1[used] = b.x1, y1[used] = b.y1, x2[used] = b.x2, y2[used] = b.y2;
    share[used++] = its_share;
  }
};

// A box as the grids see it, in double for either precision.
template <class T>
struct Place {
  double width, height, x, y;

  explicit Place(const Box<T>& b)
      : width(double{b.x2} - double{b.x1}),
        height(double{b.y2} - double{b.y1}),
        x((double{b.x1} + double{b.x2}) / 2),
        y((double{b.y1} + double{b.y2}) / 2) {}

  double longer() const { return std::max(width, height); }
};

// The boxes kept so far, see Note [Suppression].
template <class T>
class Kept {
 public:
  // For n boxes to come.
  Kept(std::int64_t n, double threshold)
      : n_(n),
        threshold_(threshold),
        share_(threshold < kSmallThreshold ? T{0} : static_cast<T>(threshold / (1 + threshold) * (1 - kSlack))),
        least_ratio_(threshold * (1 - kSlack)),
        greatest_ratio_(1 / least_ratio_),
        worst_ratio_(threshold < 0.5 ? greatest_ratio_ : 1),
        cell_scale_(0.999 / std::max(1.0, greatest_ratio_ - 1)),
        may_file_(threshold > 0.01) {
    blocks_.reserve(kListed / Block<T>::kSize);
  }

  // Keeps the box, unless one that is kept drops it.
  bool offer(const Box<T>& box) {
    ++offered_;
    const auto drops = [&](const Box<T>& other) { return exceeds(other, box, threshold_); };
    if (std::any_of(odd_.begin(), odd_.end(), drops)) return false;
    if (!is_plain(box)) {
      for (const Block<T>& block : blocks_) {
        for (std::uint32_t i = 0; i < block.used; ++i) {
          if (drops(block.box(static_cast<int>(i)))) return false;
        }
      }
      odd_.push_back(box);
      return true;
    }
    const T share = share_ * box.area();
    if (!buckets_.empty()) {
      if (dropped_by_near(box, share)) return false;
      file(box, share);
      if (!fine_ && blocks_.size() == kCrowd / Block<T>::kSize) {
        fine_ = true;
        file_all();
      }
      return true;
    }
    if (dropped_by_any(box, share)) return false;
    if (blocks_.empty() || blocks_.back().used == Block<T>::kSize) blocks_.emplace_back();
    blocks_.back().add(box, share);
    if (may_file_ && blocks_.size() >= kListed / Block<T>::kSize && n_ - offered_ > kWorthFiling) file_all();
    return true;
  }

 private:
  static constexpr std::size_t kListed = 128;        // so many are compared one by one before they are filed
  static constexpr std::int64_t kWorthFiling = 256;  // if so many are still to come
  static constexpr std::uint32_t kNone = 0xffffffff;
  static constexpr std::size_t kCrowd = 8192;  // and when blocks with room for so many are in use, finer
  static constexpr std::size_t kMaxGrids = 36;
  static constexpr std::size_t kBatch = 8;

  // Below these the products of the filter could be subnormal, and lose their relative precision.
  static constexpr T kSmallArea = sizeof(T) == 4 ? T(1e-20) : T(1e-200);
  static constexpr double kSmallThreshold = 1e-9;

  // Neither so small, so large nor so far away that filter or geometry would be inexact.
  static bool is_plain(const Box<T>& b) {
    const double far = std::max({std::abs(b.x1), std::abs(b.y1), std::abs(b.x2), std::abs(b.y2)});
    return b.area() >= kSmallArea && far < 1e150 && std::min(b.width(), b.height()) > far * 1e-12;
  }

  static std::uint64_t exponent(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits >> 52;
  }

  // Sides from 2^(2 l - 1023) up to four times that are of level l. This gives a power of two from an exponent field.
  static std::uint64_t level(double side) { return exponent(side) / 2; }
  static double power(std::uint64_t field) {
    const std::uint64_t bits = std::min<std::uint64_t>(field, 2046) << 52;
    double x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }
  static double limit(std::uint64_t level) { return power(2 * level + 2); }
  double cells_per_unit(std::uint64_t level) const { return power(level < 1022 ? 2044 - 2 * level : 1) * cell_scale_; }

  // The bucket of a cell is told by the top bits of the sum of these.
  static std::uint64_t mix_levels(std::uint64_t w, std::uint64_t h) { return (w << 10 | h) * 0x9e3779b97f4a7c15; }
  static std::uint64_t mix_x(std::int64_t x) { return static_cast<std::uint64_t>(x) * 0xc2b2ae3d27d4eb4f; }
  static std::uint64_t mix_y(std::int64_t y) { return static_cast<std::uint64_t>(y) * 0x165667b19e3779f9; }

  static std::int64_t floor_of(double x) {
    const auto i = static_cast<std::int64_t>(x);
    return i - (x < static_cast<double>(i) ? 1 : 0);
  }

  // Compares with all boxes of n <= kBatch blocks before it looks at the outcome.
  template <class At>
  bool dropped_by_batch(std::size_t n, const At& at, const Box<T>& box, T share) const {
    static_assert(Block<T>::kSize <= 8, "eight bits for each block");
    std::uint64_t suspects = 0;
    for (std::size_t i = 0; i < n; ++i) suspects |= std::uint64_t{Lanes<T>::may_exceed(at(i), box, share)} << (8 * i);
    for (; suspects; suspects &= suspects - 1) {
      const int place = __builtin_ctzll(suspects);
      if (exceeds(at(static_cast<std::size_t>(place / 8)).box(place % 8), box, threshold_)) return true;
    }
    return false;
  }

  bool dropped_by_any(const Box<T>& box, T share) const {
    for (std::size_t i = 0; i < blocks_.size(); i += kBatch) {
      const auto at = [&](std::size_t k) -> const Block<T>& { return blocks_[i + k]; };
      if (dropped_by_batch(std::min(kBatch, blocks_.size() - i), at, box, share)) return true;
    }
    return false;
  }

  // How far from its centre the centre of a box may be that matters, where sides up to `most` are filed.
  double reach(double side, double centre, double most) const {
    const double other = std::min(side * worst_ratio_, most);
    return (side + other) / 2 - least_ratio_ * std::max(side, other) + kSlack * side + std::abs(centre) * 1e-15;
  }

  bool dropped_by_near(const Box<T>& box, T share) {
    const Place<T> place(box);
    const double sides[2] = {fine_ ? place.width : place.longer(), fine_ ? place.height : place.longer()};
    const std::uint64_t first_w = level(sides[0] * least_ratio_), last_w = level(sides[0] * greatest_ratio_);
    const std::uint64_t first_h = level(sides[1] * least_ratio_), last_h = level(sides[1] * greatest_ratio_);
    const std::uint64_t grids = (last_w - first_w + 1) * (fine_ ? last_h - first_h + 1 : 1);
    if (grids > kMaxGrids || 4 * grids > blocks_.size()) return dropped_by_any(box, share);
    std::uint32_t near[4 * kMaxGrids];
    std::size_t found = 0;
    for (std::uint64_t w = first_w; w <= last_w; ++w) {
      for (std::uint64_t h = fine_ ? first_h : w; h <= (fine_ ? last_h : w); ++h) {
        const std::uint64_t levels = mix_levels(w, h);
        if (!level_in_use_[levels >> 54]) continue;
        const double reach_x = reach(place.width, place.x, limit(w)), reach_y = reach(place.height, place.y, limit(h));
        const double per_x = cells_per_unit(w), per_y = cells_per_unit(h);
        const std::uint64_t left = levels + mix_x(floor_of((place.x - reach_x) * per_x));
        const std::uint64_t right = levels + mix_x(floor_of((place.x + reach_x) * per_x));
        const std::uint64_t top = mix_y(floor_of((place.y - reach_y) * per_y));
        const std::uint64_t bottom = mix_y(floor_of((place.y + reach_y) * per_y));
        const auto look = [&](std::uint64_t cell, bool is_another) {
          near[found] = buckets_[cell >> shift_];
          found += (near[found] != kNone) & is_another;
        };
        look(left + top, true);
        look(right + top, left != right);
        look(left + bottom, top != bottom);
        look(right + bottom, (left != right) & (top != bottom));
      }
    }
    const auto at = [&](std::size_t k) -> const Block<T>& { return blocks_[near[k]]; };
    while (found > 0) {
      const std::size_t n = std::min(found, kBatch);
      if (dropped_by_batch(n, at, box, share)) return true;
      // What these blocks are chained to, and what did not fit into the batch.
      std::size_t left = 0;
      for (std::size_t i = 0; i < n; ++i) {
        near[left] = blocks_[near[i]].next;
        left += near[left] != kNone;
      }
      for (std::size_t i = n; i < found; ++i) near[left++] = near[i];
      found = left;
    }
    return false;
  }

  void file(const Box<T>& box, T share) {
    const Place<T> place(box);
    const std::uint64_t w = level(fine_ ? place.width : place.longer());
    const std::uint64_t h = level(fine_ ? place.height : place.longer());
    const std::uint64_t levels = mix_levels(w, h);
    level_in_use_[levels >> 54] = true;
    const std::uint64_t cell =
        levels + mix_x(floor_of(place.x * cells_per_unit(w))) + mix_y(floor_of(place.y * cells_per_unit(h)));
    std::uint32_t& first = buckets_[cell >> shift_];
    if (first == kNone || blocks_[first].used == Block<T>::kSize) {
      blocks_.emplace_back();
      blocks_.back().next = first;
      first = static_cast<std::uint32_t>(blocks_.size() - 1);
    }
    blocks_[first].add(box, share);
  }

  void file_all() {
    int bits = 10;
    while (bits < 24 && (std::int64_t{1} << bits) < 2 * n_) ++bits;
    shift_ = 64 - bits;
    buckets_.assign(std::size_t{1} << bits, kNone);
    const std::vector<Block<T>> listed = std::move(blocks_);
    blocks_.clear();
    for (const Block<T>& block : listed) {
      for (std::uint32_t i = 0; i < block.used; ++i) file(block.box(static_cast<int>(i)), block.share[i]);
    }
  }

  const std::int64_t n_;
  std::int64_t offered_ = 0;
  const double threshold_;
  const T share_;
  const double least_ratio_, greatest_ratio_;
  const double worst_ratio_;  // of the sides, where two boxes may be farthest apart
  const double cell_scale_;
  const bool may_file_;
  std::vector<Box<T>> odd_;
  std::vector<Block<T>> blocks_;
  std::vector<std::uint32_t> buckets_;  // the newest block of each; empty while boxes are only listed
  bool level_in_use_[1024] = {};
  bool fine_ = false;
  int shift_ = 0;
};

// Whatever the boxes and the threshold are, one comparison after the other.
template <class T>
void suppress_plainly(const Box<T>* boxes, std::int64_t n, double threshold, std::int64_t max_output,
                      std::vector<std::int64_t>& kept) {
  for (std::int64_t i = 0; i < n && static_cast<std::int64_t>(kept.size()) < max_output; ++i) {
    const auto drops = [&](std::int64_t k) { return exceeds(boxes[k], boxes[i], threshold); };
    if (std::none_of(kept.begin(), kept.end(), drops)) kept.push_back(i);
  }
}

template <class T>
void suppress_sorted(const T* corners, std::int64_t n, double threshold, std::int64_t max_output,
                     std::vector<std::int64_t>& kept) {
  const auto* boxes = reinterpret_cast<const Box<T>*>(corners);
  if (threshold < 0) return suppress_plainly(boxes, n, threshold, max_output, kept);
  const auto takes_part = [threshold](const Box<T>& b) {
    const T area = b.area();
    // Rounded or not, no IoU is above 1.
    return threshold < 1 && b.x2 > b.x1 && b.y2 > b.y1 && area > 0 && area <= std::numeric_limits<T>::max();
  };
  Kept<T> others(n, threshold);
  for (std::int64_t i = 0; i < n && static_cast<std::int64_t>(kept.size()) < max_output; ++i) {
    if (!takes_part(boxes[i]) || others.offer(boxes[i])) kept.push_back(i);
  }
}
