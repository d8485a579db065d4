// Exact divisions by the same number.
#pragma once

#include <cmath>

#include "core/ordered_key.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {

// Divides by a number again and again: with its reciprocal, rounded to the nearest float, two corrections of a quotient
// give the nearest float, as a division does (Markstein's theorem), in half of its instructions. Not for numbers of
// extreme magnitude, nor for a divisor with a significand of ones only.
struct Divisor {
  static constexpr float kLowest = 0x1p-60f, kHighest = 0x1p60f;
  float value, inverse;
  float lowest;  // of the numbers that are divided so

  explicit Divisor(float divisor) : value(divisor), inverse(1.0f / divisor) {
    const bool only_ones = (to_bits(divisor) & 0x7fffffu) == 0x7fffffu;
    lowest = divisor > kLowest && divisor < kHighest && !only_ones ? kLowest : INFINITY;
  }
  __device__ float quotient(float x) const {
    if (!(fabsf(x) > lowest && fabsf(x) < kHighest)) return x / value;
    const float first = x * inverse;
    const float second = fmaf(fmaf(-value, first, x), inverse, first);
    return fmaf(fmaf(-value, second, x), inverse, second);
  }
};

}  // namespace ssd_ops
