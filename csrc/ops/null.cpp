#include "ops/null.h"

#include "core/error.h"

namespace visdeploy {

// The dispatching file checks once, for every implementation, and then picks one with a plain `if`.
void null(const Tensor& x, float* out) {
  VD_CHECK(x.dtype == DType::kFloat32, "[null] x: expected float32, got ", name(x.dtype));
  VD_CHECK(x.rank() == 1, "[null] x: expected 1-D, got ", x.rank(), "-D");
  cpu::null(x, out);
}

}  // namespace visdeploy
