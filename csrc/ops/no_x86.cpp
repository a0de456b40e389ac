#if !defined(__x86_64__)
#include <stdexcept>

#include "ops/nms.h"

// Stands in for the variants of other machines, so that dispatch needs no conditions of its own: isa() never leads
// here.
namespace visdeploy::avx2 {

template <class T>
void suppress(const T*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&) {
  throw std::logic_error("no AVX2 here");
}

template void suppress(const float*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);
template void suppress(const double*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);

}  // namespace visdeploy::avx2
#endif
