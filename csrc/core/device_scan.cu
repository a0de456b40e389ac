#include <cub/cub.cuh>

#include "core/cuda.cuh"
#include "core/device_scan.cuh"

namespace visdeploy::cuda {
namespace {

struct Plus {
  __host__ __device__ std::int64_t operator()(std::int64_t a, std::int64_t b) const { return a + b; }
};

}  // namespace

void exclusive_sum(const std::uint32_t* values, std::int64_t n, Stream stream, std::int64_t* out) {
  VD_CUDA(cudaMemsetAsync(out, 0, sizeof(*out), handle(stream)));
  if (n == 0) return;
  // The inclusive sum one place further, since an exclusive one would not tell the total.
  std::size_t bytes = 0;
  const auto pass = [&](void* workspace) {
    return cub::DeviceScan::InclusiveScanInit(workspace, bytes, values, out + 1, Plus{}, std::int64_t{0}, n,
                                              handle(stream));
  };
  check(pass(nullptr), "cub::DeviceScan::InclusiveScanInit");
  const DeviceMemory workspace(stream, bytes);
  check(pass(workspace.data()), "cub::DeviceScan::InclusiveScanInit");
}

}  // namespace visdeploy::cuda
