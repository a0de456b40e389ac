#include <cstring>

#include "ops/null.h"

namespace visdeploy::cpu {

// Portable C++ that every machine can run; the oracle is visdeploy.reference, in NumPy.
void null(const Tensor& x, float* out) {
  const std::int64_t n = x.shape[0];
  if (n == 0) return;  // memcpy may not be given the null pointer of an empty array
  if (x.strides[0] == sizeof(float)) {
    std::memcpy(out, x.data, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  // memcpy, because a view into a packed record need not be aligned to its own type.
  for (std::int64_t i = 0; i < n; ++i) std::memcpy(out + i, x.at<float>(i * x.strides[0]), sizeof(float));
}

}  // namespace visdeploy::cpu
