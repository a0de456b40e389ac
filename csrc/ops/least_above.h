#pragma once

#include <cmath>
#include <limits>

namespace visdeploy {

// The least T that is greater than x, so that a T is greater than x exactly where it is at least that. NaN, which none
// is at least, where x is infinite.
template <class T>
T least_above(double x) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  if (x == kInfinity) return std::numeric_limits<T>::quiet_NaN();
  const auto nearest = static_cast<T>(x);
  return nearest > x ? nearest : std::nextafter(nearest, kInfinity);
}

}  // namespace visdeploy
