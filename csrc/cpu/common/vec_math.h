// exp and log that the compiler can put into vectors: branch-free, and made only of operations that IEEE 754 rounds
// correctly, so that every instruction set (and any number of lanes) gives the same bits.
//
// Within 2 ulp of the true value for every float, subnormal arguments and results included; tests/ops/test_vec_math.py
// measures it. exp: NaN stays NaN, inf gives inf, -inf and all below -103.98 give 0, all above 88.72 inf. log: NaN
// and negative numbers give NaN, 0 and -0 give -inf, inf gives inf. double calls the C library (not vectorized).
//
// Loops that call these need -fno-math-errno -fno-trapping-math -ffp-contract=off, which the build gives to csrc/cpu.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace ssd_ops::cpu {

// always_inline: a shared copy could be the one compiled for a wider instruction set than the machine has.
#define SSD_OPS_INLINE inline __attribute__((always_inline))

SSD_OPS_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

SSD_OPS_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// ln 2 in two parts: the first has 9 bits, so that its product with an exponent is exact.
constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440054690583e-4f;

// e^x = the result * 2^exponent, the result about 0.7 to 1.4; for x that is NaN or well within +-150.
SSD_OPS_INLINE float exp_fraction(float x, int32_t* exponent) {
  // x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer that stands in the lowest bits.
  constexpr float shift = 12582912.0f;
  const float shifted = x * 1.44269504088896341f + shift;
  const float n = shifted - shift;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  // (e^r - 1 - r) / r^2, minimax on +-0.35: relative error of e^r below 2^-28.
  float p = 0.0013813142263773208f;
  p = p * r + 0.008369418802357855f;
  p = p * r + 0.041668456819457585f;
  p = p * r + 0.16666514791863757f;
  p = p * r + 0.49999993050676267f;
  *exponent = static_cast<int32_t>(bits_of(shifted) - bits_of(shift));
  return (r * r * p + r) + 1.0f;
}

SSD_OPS_INLINE float vec_exp(float x) {
  // Beyond these exp is inf or 0 in float anyway; NaN passes through both.
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  int32_t exponent;
  const float power = exp_fraction(x, &exponent);
  // Times 2^n in two steps, because 2^n alone may be no normal float; only the last product rounds.
  const int32_t half = exponent >> 1;
  const float scale1 = float_of(static_cast<uint32_t>(half + 127) << 23);
  const float scale2 = float_of((static_cast<uint32_t>(exponent) - static_cast<uint32_t>(half) + 127u) << 23);
  return power * scale1 * scale2;
}

// The same bits for -87 <= x <= 0 and for NaN, with a third fewer steps; e^-87 for all below, too little to change a
// sum that has a 1 in it.
SSD_OPS_INLINE float vec_exp_of_falling(float x) {
  int32_t exponent;
  const float power = exp_fraction(x < -87.0f ? -87.0f : x, &exponent);
  return power * float_of(static_cast<uint32_t>(exponent + 127) << 23);
}

SSD_OPS_INLINE float vec_log(float x) {
  // Subnormals are brought into the normal range first.
  const bool subnormal = x < 1.17549435e-38f;
  const float normal = subnormal ? x * 8388608.0f : x;
  // x = 2^n (1 + f) with 1 + f in sqrt(1/2) .. sqrt(2).
  constexpr uint32_t sqrt_half = 0x3f3504f3u;
  const uint32_t offset = bits_of(normal) - sqrt_half;
  const int32_t exponent = static_cast<int32_t>(offset) >> 23;
  const float n = static_cast<float>(exponent) - (subnormal ? 23.0f : 0.0f);
  const float f = float_of((offset & 0x007fffffu) + sqrt_half) - 1.0f;
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

SSD_OPS_INLINE double vec_exp(double x) { return std::exp(x); }
SSD_OPS_INLINE double vec_exp_of_falling(double x) { return std::exp(x); }
SSD_OPS_INLINE double vec_log(double x) { return std::log(x); }

// For encode and decode of box.h.
struct VecMath {
  template <typename T>
  static SSD_OPS_INLINE T exp(T x) {
    return vec_exp(x);
  }
  template <typename T>
  static SSD_OPS_INLINE T log(T x) {
    return vec_log(x);
  }
};

#undef SSD_OPS_INLINE

}  // namespace ssd_ops::cpu
