// Thresholds, which are given as double, for comparisons with values of any dtype.
#pragma once

#include <cmath>

#include "core/host_device.h"

namespace ssd_ops {

// Thresholds are doubles and values are compared as doubles, so no threshold is rounded. For float values a comparison
// with a float gives the same: value > threshold if and only if value > round_down_to_float(threshold), and value >=
// threshold if and only if value >= round_up_to_float(threshold).
inline float round_down_to_float(double threshold) {  // the largest float that is not above
  const float f = static_cast<float>(threshold);
  return static_cast<double>(f) > threshold ? std::nextafterf(f, -INFINITY) : f;
}
inline float round_up_to_float(double threshold) {  // the smallest float that is not below
  const float f = static_cast<float>(threshold);
  return static_cast<double>(f) < threshold ? std::nextafterf(f, INFINITY) : f;
}
template <typename T>
inline T round_threshold_down(double threshold) {
  if constexpr (sizeof(T) == sizeof(float)) return round_down_to_float(threshold);
  return static_cast<T>(threshold);
}
template <typename T>
inline T round_threshold_up(double threshold) {
  if constexpr (sizeof(T) == sizeof(float)) return round_up_to_float(threshold);
  return static_cast<T>(threshold);
}

inline float next_above(float x) { return std::nextafterf(x, INFINITY); }
inline double next_above(double x) { return std::nextafter(x, HUGE_VAL); }

}  // namespace ssd_ops
