// The body of common_bits, included by each instruction set inside its own namespace.
std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += __builtin_popcountll(a[i] & b[i]);
  return sum;
}
