// exp and log that vectorize: branch-free, and only of operations that IEEE 754 rounds correctly, so that every
// instruction set (and any number of lanes) gives the same bits.
//
// Within 2 ulp of the exact value for every float, subnormal arguments and results included; tests/ops/test_vec_math.py
// measures it. exp: NaN stays NaN, inf gives inf, -inf and all below -103.98 give 0, all above 88.72 inf. log: NaN
// and negative numbers give NaN, 0 and -0 give -inf, inf gives inf. double calls the C library (not vectorized).
//
// Loops that call these need -fno-math-errno -fno-trapping-math -ffp-contract=off, which the build sets for csrc/cpu.
#pragma once

#include <cmath>

#include "core/ordered_key.h"

namespace ssd_ops::cpu {

// ln 2 in two parts: the first has 9 bits, so that its product with an exponent is exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440054690583e-4f;

// x = n ln 2 + r with |r| <= ln 2 / 2: returns r, and n as `exponent`; for x that is NaN or well within +-150.
SSD_OPS_HD float exp_remainder(float x, int32_t* exponent) {
  // Adding 1.5 * 2^23 rounds to an integer in the lowest bits.
  constexpr float shift = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + shift;
  const float n = shifted - shift;
  *exponent = static_cast<int32_t>(to_bits(shifted) - to_bits(shift));
  return (x - n * kLn2High) - n * kLn2Low;
}

// (e^r - 1 - r) / r^2 but for the last step of Horner's scheme, which is in the next function. Minimax on +-0.35:
// relative error of e^r below 2^-28.
SSD_OPS_HD float exp_series(float r) {
  float p = 0.0013813142263773208f;
  p = p * r + 0.008369418802357855f;
  p = p * r + 0.041668456819457585f;
  return p * r + 0.16666514791863757f;
}

// e^r of such a remainder and its series, about 0.7 to 1.4.
SSD_OPS_HD float exp_of_remainder(float r, float series) {
  const float p = series * r + 0.49999993050676267f;
  return (r * r * p + r) + 1.0f;
}

SSD_OPS_HD float vec_exp(float x) {
  // Beyond these limits exp is inf or 0 in float; NaN passes both comparisons.
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  int32_t exponent;
  const float r = exp_remainder(x, &exponent), power = exp_of_remainder(r, exp_series(r));
  // Times 2^n in two steps, because 2^n alone may not be a normal float; only the last product rounds.
  const int32_t half = exponent >> 1;
  const float scale1 = from_bits<float>(static_cast<uint32_t>(half + 127) << 23);
  const float scale2 = from_bits<float>((static_cast<uint32_t>(exponent) - static_cast<uint32_t>(half) + 127u) << 23);
  return power * scale1 * scale2;
}

// exp for x <= 0 in three steps, to be loops of their own: r = begin_exp(x, kLowestExp, &scale), then
// end_exp(r, exp_series(r), scale). The same bits as vec_exp for kLowestExp <= x <= 0 and for NaN, in a third fewer
// operations; e^kLowestExp for all below, too small to change a sum that contains a 1.
constexpr float kLowestExp = -87.0f;
SSD_OPS_HD float begin_exp(float x, float lowest, float* scale) {
  int32_t exponent;
  const float r = exp_remainder(x < lowest ? lowest : x, &exponent);
  *scale = from_bits<float>(static_cast<uint32_t>(exponent + 127) << 23);
  return r;
}
SSD_OPS_HD float end_exp(float r, float series, float scale) { return exp_of_remainder(r, series) * scale; }

SSD_OPS_HD float vec_log(float x) {
  // Subnormal numbers are scaled into the normal range first.
  const bool subnormal = x < 1.17549435e-38f;
  const float normal = subnormal ? x * 8388608.0f : x;
  // x = 2^n (1 + f) with 1 + f in sqrt(1/2) .. sqrt(2).
  constexpr uint32_t sqrt_half = 0x3f3504f3u;
  const uint32_t offset = to_bits(normal) - sqrt_half;
  const int32_t exponent = static_cast<int32_t>(offset) >> 23;
  const float n = static_cast<float>(exponent) - (subnormal ? 23.0f : 0.0f);
  const float f = from_bits<float>((offset & 0x007fffffu) + sqrt_half) - 1.0f;
  // (log(1 + f) - f + f^2 / 2) / f^3, minimax on that range: relative error of the logarithm below 2^-27.
  float p = -0.07634495195234306f;
  p = p * f + 0.12761575402955844f;
  p = p * f + -0.13160182083673372f;
  p = p * f + 0.14201758240743592f;
  p = p * f + -0.16623357411912343f;
  p = p * f + 0.2000122686595519f;
  p = p * f + -0.25000821031796944f;
  p = p * f + 0.33333331707873104f;
  const float square = f * f;
  const float low = (p * f * square + n * kLn2Low) - 0.5f * square;
  float result = (low + f) + n * kLn2High;
  result = x == 0.0f ? -INFINITY : result;
  result = x < 0.0f ? NAN : result;
  return x < INFINITY ? result : x;  // inf and NaN
}

SSD_OPS_HD double vec_exp(double x) { return std::exp(x); }
SSD_OPS_HD double begin_exp(double x, float, double* scale) {
  *scale = 1;
  return std::exp(x);
}
SSD_OPS_HD double exp_series(double) { return 0; }
SSD_OPS_HD double end_exp(double power, double, double scale) { return power * scale; }
SSD_OPS_HD double vec_log(double x) { return std::log(x); }

// The exp and log of encode and decode in box.h.
struct VecMath {
  template <typename T>
  static SSD_OPS_HD T exp(T x) {
    return vec_exp(x);
  }
  template <typename T>
  static SSD_OPS_HD T log(T x) {
    return vec_log(x);
  }
};

}  // namespace ssd_ops::cpu
