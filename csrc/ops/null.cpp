#include "ops/null.h"

#include "core/device.h"
#include "core/error.h"

namespace visdeploy {

// The dispatching file checks once, for every implementation, and then picks one with a plain `if`.
void null(const Tensor& x, float* out) {
  VD_CHECK(x.dtype == DType::kFloat32, "[null] x: expected float32, got ", name(x.dtype));
  VD_CHECK(x.rank() == 1, "[null] x: expected 1-D, got ", x.rank(), "-D");
  if (const auto stream = device_of("null", {{"x", &x}})) return cuda::null(x, *stream, out);
  cpu::null(x, out);
}

}  // namespace visdeploy
