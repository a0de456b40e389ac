// No include guard: every instruction set's file includes this inside its own namespace, so that it has its own copy,
// compiled for it. For a GPU VD_INLINE says that functions run there.
#ifndef VD_INLINE
#define VD_INLINE static inline
#endif

// Note [The same exp everywhere]
// Boxes and scores must not depend on the instruction set, and a libm's exp does. These are plain double arithmetic in
// one order, which a compiler vectorises and may not reorder, for float arguments: the result, rounded to float, is the
// correctly rounded one but for about one argument in a thousand. Loops that call them vectorise, as nothing branches.

VD_INLINE double from_bits(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

VD_INLINE std::uint64_t to_bits(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// e to the x. Beyond float's range the result is one that rounds to float's zero or infinity; NaN stays NaN.
VD_INLINE double exp(double x) {
  constexpr double kRound = 0x1.8p52;  // added and taken away it leaves the nearest integer, which is in its low bits
  double t = x * 1.4426950408889634;
  t = t < -200.0 ? -200.0 : t;
  t = t > 200.0 ? 200.0 : t;
  const double shifted = t + kRound;
  const double r = t - (shifted - kRound);
  // (2^r - 1) / r for |r| <= 1/2, fitted in Chebyshev polynomials: 2^0 is exactly 1.
  double p = 1.5310047815518496e-05;
  p = 0.00015467344986304935 + r * p;
  p = 0.0013333450718100459 + r * p;
  p = 0.009618036032693435 + r * p;
  p = 0.05550410940991608 + r * p;
  p = 0.24022651083512955 + r * p;
  p = 0.6931471805460201 + r * p;
  const double power = 1.0 + r * p;
  return from_bits(to_bits(power) + (to_bits(shifted) << 52));
}

// The natural logarithm: -inf of zero, NaN of what is negative.
VD_INLINE double log(double x) {
  constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd, kExponent = 0xfff0000000000000, kTwo52 = 0x4330000000000000;
  // x = m * 2^k with m in [sqrt(1/2), sqrt(2)); k is biased by 1023, so that it is never negative.
  const std::uint64_t bits = to_bits(x);
  const std::uint64_t above = bits - kSqrtHalf + 0x3ff0000000000000;
  const double k = from_bits((above >> 52) | kTwo52) - 0x1p52 - 1023.0;
  const double m = from_bits(bits - ((above & kExponent) - 0x3ff0000000000000));
  const double s = (m - 1.0) / (m + 1.0), s2 = s * s;
  const double series =
      1.0 + s2 * (1.0 / 3 + s2 * (1.0 / 5 + s2 * (1.0 / 7 + s2 * (1.0 / 9 + s2 * (1.0 / 11 + s2 * (1.0 / 13))))));
  const double inside = k * 0.69314718055994531 + 2.0 * s * series;
  const double infinity = from_bits(0x7ff0000000000000);
  const double above_zero = x < infinity ? inside : x;
  const double defined = x < 0.0 ? from_bits(0x7ff8000000000000) : above_zero;
  return x == 0.0 ? -infinity : defined;
}
