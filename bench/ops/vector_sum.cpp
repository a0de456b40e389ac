// The least that a pass over a buffer of floats can cost: what encode_logits is measured against.
#include <cstddef>

extern "C" float vector_sum(const float* values, std::size_t n) {
  float sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += values[i];
  return sum;
}
