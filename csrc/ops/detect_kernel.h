// No include guard: detect_cpu.cpp and its faster siblings include this inside their own namespaces, after exp_log.h
// and after saying how many bytes a register has.

typedef float Floats __attribute__((vector_size(kRegister)));
typedef double Doubles __attribute__((vector_size(kRegister)));
constexpr std::int64_t kFloats = kRegister / sizeof(float), kDoubles = kRegister / sizeof(double);
constexpr std::int64_t kBlock = 16;

// The largest of n >= 1 numbers but NaN, which loses every comparison.
static inline float largest(const float* x, std::int64_t n) {
  float most = -std::numeric_limits<float>::infinity();
  if (n < kFloats) {
    for (std::int64_t i = 0; i < n; ++i) most = x[i] > most ? x[i] : most;
    return most;
  }
  Floats lanes = most - Floats{}, next;
  for (std::int64_t i = 0; i + kFloats <= n; i += kFloats) {
    std::memcpy(&next, x + i, sizeof(next));
    lanes = next > lanes ? next : lanes;
  }
  std::memcpy(&next, x + n - kFloats, sizeof(next));  // overlaps what has been seen
  lanes = next > lanes ? next : lanes;
  for (std::int64_t l = 0; l < kFloats; ++l) most = lanes[l] > most ? lanes[l] : most;
  return most;
}

// e to the (x - most), followed by zeros to a multiple of kBlock.
static inline void exps(const float* x, std::int64_t n, double most, double* __restrict out) {
  float block[kBlock];
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t count = n - i < kBlock ? n - i : kBlock;
    if (count == kBlock) {
      for (std::int64_t l = 0; l < kBlock; ++l) out[i + l] = exp(static_cast<double>(x[i + l]) - most);
    } else {
      for (float& value : block) value = -std::numeric_limits<float>::infinity();
      std::memcpy(block, x + i, static_cast<std::size_t>(count) * sizeof(float));
      for (std::int64_t l = 0; l < kBlock; ++l) out[i + l] = exp(static_cast<double>(block[l]) - most);
      for (std::int64_t l = count; l < kBlock; ++l) out[i + l] = 0;
    }
  }
}

// The sum of n numbers, a multiple of kBlock, in eight parts whatever the instruction set.
static inline double sum(const double* x, std::int64_t n) {
  constexpr std::int64_t kParts = 8;
  Doubles registers[kParts / kDoubles] = {}, next;
  for (std::int64_t i = 0; i < n; i += kParts) {
    for (std::int64_t r = 0; r < kParts / kDoubles; ++r) {
      std::memcpy(&next, x + i + r * kDoubles, sizeof(next));
      registers[r] += next;
    }
  }
  double parts[kParts];
  std::memcpy(parts, registers, sizeof(parts));
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

// At most the sum of e to the (x - best): (1 + t / 32)^32 <= e^t wherever 1 + t / 32 is positive. A fraction of the
// cost of the sum itself, and within a tenth of it for what networks say. NaN counts as nothing.
static inline float least_sum(const float* x, std::int64_t n, float best) {
  Floats lanes{};
  for (std::int64_t i = 0; i < n; i += kFloats) {
    Floats t = -std::numeric_limits<float>::infinity() - Floats{};
    if (n - i >= kFloats) {
      std::memcpy(&t, x + i, sizeof(t));
    } else {
      std::memcpy(&t, x + i, static_cast<std::size_t>(n - i) * sizeof(float));
    }
    const Floats u = 1.0f + (t - best) * 0.03125f, positive = u > 0 ? u : Floats{};
    const Floats u2 = positive * positive, u4 = u2 * u2, u8 = u4 * u4, u16 = u8 * u8;
    lanes += u16 * u16;
  }
  float parts[4] = {};
  for (std::int64_t l = 0; l < kFloats; ++l) parts[l % 4] += lanes[l];
  const float total = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  // Less what rounding may have added: 2^-24 at most in each step, on terms that are at most 1 but for the background.
  return total * (1 - 1e-3f) - 8e-6f * static_cast<float>(n);
}

static inline double margin_of(float score) {
  return score > 0 ? 1e-3 - log(static_cast<double>(score)) : std::numeric_limits<double>::infinity();
}

void scan(const float* logits, std::int64_t stride, std::int64_t first, std::int64_t last, std::int64_t classes,
          Candidates& candidates) {
  const std::int64_t padded = (classes + kBlock - 1) / kBlock * kBlock;
  std::vector<double> scratch(static_cast<std::size_t>(padded));
  double* e = scratch.data();
  float floor = candidates.floor();
  double margin = margin_of(floor);
  for (std::int64_t anchor = first; anchor < last; ++anchor) {
    const float* x = logits + anchor * stride;
    const float best = largest(x + 1, classes - 1);
    // A probability is at most e to the class's distance from the background; this decides nearly every anchor.
    if (static_cast<double>(x[0]) - static_cast<double>(best) > margin) continue;
    // The best probability is one by the sum of e to the distances from it.
    if (floor * least_sum(x, classes, best) >= 1) continue;
    const double most = static_cast<double>(x[0] > best ? x[0] : best);
    exps(x, classes, most, e);
    // NaN and infinity in a row make the sum NaN, which lets nothing pass, as they do in torch.
    const double total = sum(e, padded), bound = static_cast<double>(floor) * total * (1 - 1e-6);
    if (!(exp(static_cast<double>(best) - most) > bound)) continue;
    for (std::int64_t c = 1; c < classes; ++c) {
      if (!(e[c] > bound)) continue;
      const float score = static_cast<float>(e[c] / total);
      if (score > candidates.floor()) candidates.push(score, static_cast<std::uint32_t>(anchor * classes + c));
    }
    if (candidates.floor() != floor) {
      floor = candidates.floor();
      margin = margin_of(floor);
    }
  }
}
