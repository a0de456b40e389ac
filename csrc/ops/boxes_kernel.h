// No include guard: boxes_cpu.cpp and its faster siblings include this inside their own namespaces, after exp_log.h.

template <bool kWeights>
struct Decode {
  static inline void side(float offset, float log_size, float low, float high, float scale, float size_scale,
                          float* out_low, float* out_high) {
    // torchvision's guard against overflow, which belongs to its preset: log(1000 / 16).
    constexpr float kLargest = 4.135166556742356f;
    const float size = high - low;
    float centre, log_ratio = log_size / size_scale;
    if (kWeights) {
      centre = offset / scale * size + (low + 0.5f * size);
      log_ratio = log_ratio > kLargest ? kLargest : log_ratio;
    } else {
      centre = offset * size / scale + (low + high) / 2;
    }
    const float half = 0.5f * (static_cast<float>(exp(static_cast<double>(log_ratio))) * size);
    *out_low = centre - half;
    *out_high = centre + half;
  }
};

template <bool kWeights>
struct Encode {
  static inline void side(float box_low, float box_high, float low, float high, float scale, float size_scale,
                          float* offset, float* log_size) {
    const float size = high - low, box_size = box_high - box_low;
    if (kWeights) {
      *offset = scale * ((box_low + 0.5f * box_size) - (low + 0.5f * size)) / size;
      *log_size = size_scale * static_cast<float>(log(static_cast<double>(box_size / size)));
    } else {
      *offset = scale * ((box_low + box_high) / 2 - (low + high) / 2) / size;
      *log_size = size_scale * static_cast<float>(log(static_cast<double>(1e-6f + box_size / size)));
    }
  }
};

// Boxes are worked on in blocks, x sides first and then y sides, so that what is done to a side becomes vector code.
constexpr std::int64_t kBlock = 16, kSides = 2 * kBlock;

struct Sides {
  float low[kSides], high[kSides];
};

static inline void split(const float* rows, std::int64_t n, Sides& sides) {
  for (std::int64_t i = 0; i < n; ++i) {
    sides.low[i] = rows[4 * i];
    sides.low[kBlock + i] = rows[4 * i + 1];
    sides.high[i] = rows[4 * i + 2];
    sides.high[kBlock + i] = rows[4 * i + 3];
  }
}

static inline void join(const Sides& sides, std::int64_t n, float* rows) {
  for (std::int64_t i = 0; i < n; ++i) {
    rows[4 * i] = sides.low[i];
    rows[4 * i + 1] = sides.low[kBlock + i];
    rows[4 * i + 2] = sides.high[i];
    rows[4 * i + 3] = sides.high[kBlock + i];
  }
}

// Applies Work::side to every side of two sets of rows.
template <class Work>
static inline void for_sides(const float* first, const float* second, std::int64_t n, const float* scale, float* out) {
  Sides a{}, b{}, result, scales;
  for (std::int64_t i = 0; i < kSides; ++i) {
    scales.low[i] = scale[i / kBlock];
    scales.high[i] = scale[2 + i / kBlock];
  }
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t rows = n - begin < kBlock ? n - begin : kBlock;
    if (rows == kBlock) {
      split(first + 4 * begin, kBlock, a);
      split(second + 4 * begin, kBlock, b);
    } else {
      split(first + 4 * begin, rows, a);
      split(second + 4 * begin, rows, b);
    }
    for (std::int64_t i = 0; i < kSides; ++i) {
      Work::side(a.low[i], a.high[i], b.low[i], b.high[i], scales.low[i], scales.high[i], &result.low[i],
                 &result.high[i]);
    }
    join(result, rows, out + 4 * begin);
  }
}

void decode(const float* offsets, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out) {
  if (coder.rule == BoxRule::kWeights) return for_sides<Decode<true>>(offsets, anchors, n, coder.scale, out);
  for_sides<Decode<false>>(offsets, anchors, n, coder.scale, out);
}

void encode(const float* boxes, const float* anchors, std::int64_t n, const BoxCoder& coder, float* out) {
  if (coder.rule == BoxRule::kWeights) return for_sides<Encode<true>>(boxes, anchors, n, coder.scale, out);
  for_sides<Encode<false>>(boxes, anchors, n, coder.scale, out);
}
