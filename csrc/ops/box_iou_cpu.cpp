#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "ops/box_iou.h"

namespace visdeploy::cpu {
namespace {

template <class T>
void overlaps(const T* a, std::int64_t n, const T* b, std::int64_t m, T* out, int num_threads) {
  // Corner by corner, so that the compiler can take several boxes at a time.
  const auto columns = static_cast<std::size_t>(m);
  std::vector<T> x1(columns), y1(columns), x2(columns), y2(columns), area(columns);
  for (std::size_t j = 0; j < columns; ++j) {
    x1[j] = b[4 * j], y1[j] = b[4 * j + 1], x2[j] = b[4 * j + 2], y2[j] = b[4 * j + 3];
    area[j] = (x2[j] - x1[j]) * (y2[j] - y1[j]);
  }
  const double work = 0.5 * static_cast<double>(n) * static_cast<double>(m);
  parallel_for(n, choose_threads(num_threads, work), [&](std::int64_t i) {
    const T left = a[4 * i], top = a[4 * i + 1], right = a[4 * i + 2], bottom = a[4 * i + 3];
    const T own = (right - left) * (bottom - top);
    T* row = out + i * m;
    for (std::size_t j = 0; j < columns; ++j) {
      const T w = std::max(T{0}, std::min(right, x2[j]) - std::max(left, x1[j]));
      const T h = std::max(T{0}, std::min(bottom, y2[j]) - std::max(top, y1[j]));
      row[j] = w * h / (own + area[j] - w * h);
    }
  });
}

}  // namespace

void box_iou(const float* a, std::int64_t n, const float* b, std::int64_t m, float* out, int num_threads) {
  overlaps(a, n, b, m, out, num_threads);
}

void box_iou(const double* a, std::int64_t n, const double* b, std::int64_t m, double* out, int num_threads) {
  overlaps(a, n, b, m, out, num_threads);
}

}  // namespace visdeploy::cpu
