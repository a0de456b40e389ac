// See Note [Code for one instruction set] in bits_cpu.h.
namespace {

// The two kinds of samples that masks come in. Bytes differ as in pycocotools, so that 1 and 2 are not the same.
struct Bytes {
  static constexpr std::int64_t kSize = 1;
  static constexpr std::uint8_t kBackground[kSize] = {0};

  std::uint64_t differ(const std::uint8_t* a, const std::uint8_t* b) const { return differing_bytes(a, b); }
  bool first_differs(const std::uint8_t* a, const std::uint8_t* b) const { return *a != *b; }
};

struct Floats {
  static constexpr std::int64_t kSize = sizeof(float);
  static constexpr std::uint8_t kBackground[kSize] = {0xff, 0xff, 0xff, 0xff};  // NaN is above no threshold

  std::uint64_t differ(const std::uint8_t* a, const std::uint8_t* b) const {
    return floats_above(a, threshold) ^ floats_above(b, threshold);
  }
  bool first_differs(const std::uint8_t* a, const std::uint8_t* b) const { return above(a) != above(b); }
  bool above(const std::uint8_t* a) const {
    float value;
    std::memcpy(&value, a, sizeof(value));
    return value > threshold;
  }

  float threshold;
};

// How far ahead of its use memory is asked for, in bytes: processors do so by themselves, but not across pages.
constexpr std::int64_t kAhead = 2048;

// Calls emit(word, i) for each 64 of n samples, ascending: bit k says whether a and b differ at i + k. What lies
// `ahead` bytes behind a is needed next.
template <class Samples, class Emit>
void for_each_word(const Samples& samples, const std::uint8_t* a, const std::uint8_t* b, std::int64_t n,
                   std::int64_t ahead, const Emit& emit) {
  constexpr std::int64_t kSize = Samples::kSize;
  std::int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int k = 0; k < kSize; ++k) __builtin_prefetch(a + i * kSize + ahead + 64 * k, 0, 3);
    emit(samples.differ(a + i * kSize, b + i * kSize), i);
  }
  if (i == n) return;
  if (n >= 64) {
    const std::int64_t start = (n - 64) * kSize;
    return emit(samples.differ(a + start, b + start) >> (64 - (n - i)), i);
  }
  std::uint8_t short_a[64 * kSize] = {}, short_b[64 * kSize] = {};
  std::memcpy(short_a, a, static_cast<std::size_t>(n * kSize));
  std::memcpy(short_b, b, static_cast<std::size_t>(n * kSize));
  emit(samples.differ(short_a, short_b), 0);
}

}  // namespace
