#pragma once

#include "core/tensor.h"

// The template op: copy these files to start a new one. A header is the contract, in the terms of the caller.
namespace visdeploy {

// Copies x, (N,) float32 with any stride, into out, which has room for N floats where x lies.
void null(const Tensor& x, float* out);

// Implementations. Only null.cpp calls them: arguments reach them checked.
namespace cpu {
void null(const Tensor& x, float* out);
}
namespace cuda {
void null(const Tensor& x, Stream stream, float* out);
}

}  // namespace visdeploy
