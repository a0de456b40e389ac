#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/isa.h"
#include "ops/nms.h"

VD_TARGET_BEGIN(VD_AVX2)
namespace visdeploy::avx2 {
namespace {

template <class T>
struct Lanes;

template <>
struct Lanes<float> {
  static constexpr int kSize = 8;

  template <class Block, class Box>
  static std::uint32_t may_exceed(const Block& block, const Box& box, float share) {
    const __m256 left = _mm256_max_ps(_mm256_load_ps(block.x1), _mm256_set1_ps(box.x1));
    const __m256 top = _mm256_max_ps(_mm256_load_ps(block.y1), _mm256_set1_ps(box.y1));
    const __m256 right = _mm256_min_ps(_mm256_load_ps(block.x2), _mm256_set1_ps(box.x2));
    const __m256 bottom = _mm256_min_ps(_mm256_load_ps(block.y2), _mm256_set1_ps(box.y2));
    const __m256 w = _mm256_max_ps(_mm256_sub_ps(right, left), _mm256_setzero_ps());
    const __m256 excess = _mm256_fmsub_ps(w, _mm256_sub_ps(bottom, top), _mm256_load_ps(block.share));
    const __m256 passes = _mm256_cmp_ps(excess, _mm256_set1_ps(share), _CMP_GT_OQ);
    return static_cast<std::uint32_t>(_mm256_movemask_ps(passes));
  }
};

template <>
struct Lanes<double> {
  static constexpr int kSize = 4;

  template <class Block, class Box>
  static std::uint32_t may_exceed(const Block& block, const Box& box, double share) {
    const __m256d left = _mm256_max_pd(_mm256_load_pd(block.x1), _mm256_set1_pd(box.x1));
    const __m256d top = _mm256_max_pd(_mm256_load_pd(block.y1), _mm256_set1_pd(box.y1));
    const __m256d right = _mm256_min_pd(_mm256_load_pd(block.x2), _mm256_set1_pd(box.x2));
    const __m256d bottom = _mm256_min_pd(_mm256_load_pd(block.y2), _mm256_set1_pd(box.y2));
    const __m256d w = _mm256_max_pd(_mm256_sub_pd(right, left), _mm256_setzero_pd());
    const __m256d excess = _mm256_fmsub_pd(w, _mm256_sub_pd(bottom, top), _mm256_load_pd(block.share));
    const __m256d passes = _mm256_cmp_pd(excess, _mm256_set1_pd(share), _CMP_GT_OQ);
    return static_cast<std::uint32_t>(_mm256_movemask_pd(passes));
  }
};

#include "ops/nms_greedy.h"

}  // namespace

template <class T>
void suppress(const T* boxes, std::int64_t n, double iou_threshold, std::int64_t max_output,
              std::vector<std::int64_t>& kept) {
  suppress_sorted(boxes, n, iou_threshold, max_output, kept);
}

template void suppress(const float*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);
template void suppress(const double*, std::int64_t, double, std::int64_t, std::vector<std::int64_t>&);

}  // namespace visdeploy::avx2
VD_TARGET_END
#endif
