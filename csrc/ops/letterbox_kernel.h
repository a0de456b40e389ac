// No include guard: every instruction set's file includes this inside its own namespace, after letterbox_taps.h.

// Note [Whole numbers in floats]
// Weighted sums of samples are whole numbers, which a float holds and adds without error below 2^24 and a double below
// 2^53. So every instruction set has the same sums, in registers as wide as it has them, and the CUDA kernel's. Weights
// are divided by what they have in common: from 1280 to 512 rows are as from 5 to 2, and floats suffice.
// The mean, half up, is the floor of (sum + total / 2 + 1/2) / total, with total / 2 rounded down. That is at least
// 1 / (2 * total) away from a whole number, and multiplying by a rounded inverse errs by less than 256 * 2^-23 in
// float and 256 * 2^-52 in double: by too little up to a total of 2^14, and of 2^43, which check_letterbox keeps.

namespace {

constexpr double kExactSum = 1 << 24, kExactMean = 1 << 14;

// Calls f with n from 1 to N as a constant, which lets the compiler unroll loops.
template <int N, class F>
void with_constant(std::int64_t n, const F& f) {
  if constexpr (N > 1) {
    if (n < N) return with_constant<N - 1>(n, f);
  }
  f(std::integral_constant<int, N>{});
}

// One axis: the weights of those source pixels that make one.
struct Axis {
  Axis(Interpolation way, std::int64_t source, std::int64_t target)
      : interpolation(way),
        from(source),
        to(target),
        divisor(way == Interpolation::kNearest ? 1 : static_cast<std::uint32_t>(std::gcd(from, to))) {}

  Taps at(std::int64_t i) const {
    const Taps t = taps(interpolation, i, from, to);
    return {t.first, t.last, t.at_first / divisor, t.between / divisor, t.at_last / divisor, t.total / divisor};
  }
  double total() const { return at(0).total; }

  Interpolation interpolation;
  std::int64_t from, to;
  std::uint32_t divisor;
};

// The weights of n pixels from `first` for each pixel of the result, zero where fewer make it.
template <class Total>
struct Columns {
  explicit Columns(const Axis& axis) {
    for (std::int64_t i = 0; i < axis.to; ++i) n = std::max(n, axis.at(i).last - axis.at(i).first + 1);
    weights.resize(static_cast<std::size_t>(axis.to * n));
    for (std::int64_t i = 0; i < axis.to; ++i) {
      const Taps at = axis.at(i);
      first.push_back(std::min(at.first, axis.from - n));
      const std::int64_t offset = i * n - first.back();
      for (std::int64_t x = at.first; x <= at.last; ++x) {
        weights[static_cast<std::size_t>(offset + x)] = static_cast<Total>(weight_of(at, x));
      }
    }
  }

  std::int64_t n = 0;
  std::vector<std::int64_t> first;
  std::vector<Total> weights;
};

// Rows of samples that lie side by side, which they are copied for where they do not.
class Rows {
 public:
  static constexpr std::int64_t kKept = 4;  // copies: that of the row so many before is overwritten

  explicit Rows(const Tensor& image) : image_(image), samples_(3 * image.shape[1]) {
    const bool side_by_side = image.strides[2] == 1 && (image.strides[1] == 3 || image.shape[1] == 1);
    if (!side_by_side) copies_.resize(static_cast<std::size_t>(kKept * samples_));
  }

  std::int64_t samples() const { return samples_; }

  const std::uint8_t* at(std::int64_t y) {
    const auto* row = image_.at<std::uint8_t>(y * image_.strides[0]);
    if (copies_.empty()) return row;
    std::uint8_t* copy = copies_.data() + y % kKept * samples_;
    for (std::int64_t x = 0; x < image_.shape[1]; ++x) {
      for (std::int64_t c = 0; c < 3; ++c) copy[3 * x + c] = row[x * image_.strides[1] + c * image_.strides[2]];
    }
    return copy;
  }

 private:
  const Tensor& image_;
  std::int64_t samples_;
  std::vector<std::uint8_t> copies_;
};

// Sums of a few rows are a Sum, of all of them a Total.
template <class Sum, class Total>
void sum_rows(Rows& rows, const Taps& at, Total* __restrict sums) {
  for (std::int64_t y = at.first; y <= at.last; y += Rows::kKept) {
    const bool start = y == at.first;
    with_constant<Rows::kKept>(at.last - y + 1, [&](auto n) {
      const std::uint8_t* row[n];
      Sum weight[n];
      for (int k = 0; k < n; ++k) {
        row[k] = rows.at(y + k);
        weight[k] = static_cast<Sum>(weight_of(at, y + k));
      }
      for (std::int64_t i = 0; i < rows.samples(); ++i) {
        Sum sum = 0;
        for (int k = 0; k < n; ++k) sum += weight[k] * static_cast<Sum>(row[k][i]);
        sums[i] = (start ? 0 : sums[i]) + static_cast<Total>(sum);
      }
    });
  }
}

// Reads and writes one number too many, so that a pixel is four. N is columns.n, or zero.
template <int N, class Total>
void sum_columns(const Columns<Total>& columns, const Total* sums, Total* out) {
  typedef Total Pixel __attribute__((vector_size(4 * sizeof(Total))));
  const Total* weight = columns.weights.data();
  for (const std::int64_t first : columns.first) {
    Pixel total = {}, pixel;
    for (std::int64_t k = 0; k < (N ? N : columns.n); ++k) {
      std::memcpy(&pixel, sums + 3 * (first + k), sizeof(pixel));
      total += *weight++ * pixel;
    }
    std::memcpy(out, &total, sizeof(total));
    out += 3;
  }
}

template <class Total, class T>
void write_means(const Total* __restrict sums, std::int64_t n, double total, T* __restrict out) {
  const auto half = static_cast<Total>(std::floor(total / 2) + 0.5), inverse = 1 / static_cast<Total>(total);
  for (std::int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<int>((sums[i] + half) * inverse));
}

// Rows first: that is what reads the whole image, and it needs nothing but samples that lie side by side.
template <class Sum, class Total, class T>
void average(Rows& image, const Axis& vertical, const Axis& horizontal, std::int64_t step, T* out) {
  constexpr int kUnrolled = 6;
  const Columns<Total> columns(horizontal);
  std::vector<Total> sums(static_cast<std::size_t>(image.samples() + 1));
  std::vector<Total> totals(static_cast<std::size_t>(3 * horizontal.to + 1));
  for (std::int64_t y = 0; y < vertical.to; ++y) {
    sum_rows<Sum>(image, vertical.at(y), sums.data());
    if (columns.n > kUnrolled) {
      sum_columns<0>(columns, sums.data(), totals.data());
    } else {
      with_constant<kUnrolled>(columns.n, [&](auto n) { sum_columns<n>(columns, sums.data(), totals.data()); });
    }
    write_means(totals.data(), 3 * horizontal.to, vertical.total() * horizontal.total(), out + y * step);
  }
}

template <class T>
void copy(Rows& image, const Axis& vertical, const Axis& horizontal, std::int64_t step, T* out) {
  std::vector<std::int64_t> columns;
  for (std::int64_t x = 0; x < horizontal.to; ++x) columns.push_back(3 * horizontal.at(x).first);
  for (std::int64_t y = 0; y < vertical.to; ++y, out += step) {
    const std::uint8_t* row = image.at(vertical.at(y).first);
    if (horizontal.from == horizontal.to) {
      std::copy_n(row, image.samples(), out);
      continue;
    }
    T* pixel = out;
    for (const std::int64_t column : columns) {
      for (int c = 0; c < 3; ++c) *pixel++ = static_cast<T>(row[column + c]);
    }
  }
}

template <class T>
void write_all(const Tensor& image, const Letterbox& to, T* out) {
  Rows rows(image);
  const Axis vertical(to.interpolation, image.shape[0], to.valid_height);
  const Axis horizontal(to.interpolation, image.shape[1], to.valid_width);
  const bool same_size = vertical.from == vertical.to && horizontal.from == horizontal.to;
  const std::int64_t step = 3 * to.width;
  if (to.interpolation == Interpolation::kNearest || same_size) {
    copy(rows, vertical, horizontal, step, out);
  } else if (vertical.total() * horizontal.total() <= kExactMean) {
    average<float, float>(rows, vertical, horizontal, step, out);
  } else if (255 * vertical.total() < kExactSum) {
    average<float, double>(rows, vertical, horizontal, step, out);
  } else {
    average<double, double>(rows, vertical, horizontal, step, out);
  }
  for (std::int64_t y = 0; y < to.height; ++y) {
    T* padding = out + y * step + (y < to.valid_height ? 3 * to.valid_width : 0);
    std::fill(padding, out + (y + 1) * step, static_cast<T>(to.pad_value));
  }
}

}  // namespace

void letterbox(const Tensor& image, const Letterbox& to, std::uint8_t* out) { write_all(image, to, out); }
void letterbox(const Tensor& image, const Letterbox& to, float* out) { write_all(image, to, out); }
