// No include guard: boxes_cpu.cpp and its faster siblings include this inside their own namespaces, after box_sides.h.

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
