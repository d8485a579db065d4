// Loads and stores of the four dtypes: half precision is widened to float, double stays.
//
// float16 and bfloat16 are held as their bits, widened to float exactly and rounded to the nearest value, ties to even.
// Branch-free, so that loops vectorize, and without subnormal floats, which a process may flush to 0
// (torch.set_flush_denormal).
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/ordered_key.h"

namespace ssd_ops::cpu {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

SSD_OPS_HD float widen(float x) { return x; }
SSD_OPS_HD double widen(double x) { return x; }
SSD_OPS_HD float widen(BFloat16 x) { return from_bits<float>(static_cast<uint32_t>(x.bits) << 16); }

SSD_OPS_HD float widen(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // the exponent's bias is 127 instead of 15
  const uint32_t subnormal = to_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t infinite = (magnitude << 13) | 0x7f800000u;  // NaN too
  const uint32_t finite = magnitude < 0x0400u ? subnormal : normal;
  return from_bits<float>((magnitude < 0x7c00u ? finite : infinite) | sign);
}

// x in the dtype Out.
template <typename Out>
SSD_OPS_HD Out narrow(compute_t<Out> x) {
  return x;
}
template <>
SSD_OPS_HD BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = to_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0u)};
}
template <>
SSD_OPS_HD Half narrow<Half>(float x) {
  const uint32_t bits = to_bits(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  const uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  // One half plus a number below 2^-14: the sum's last bit is worth 2^-24, as that of a subnormal half.
  const uint32_t subnormal = to_bits(from_bits<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t infinite = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return {static_cast<uint16_t>((magnitude < 0x477ff000u ? finite : infinite) | sign)};
}

// Whether x, which is not NaN, is above 0, even if the CPU treats subnormal numbers as 0.
template <typename T>
SSD_OPS_HD bool above_zero(T x) {
  return static_cast<std::make_signed_t<sort_key_t<T>>>(to_bits(x)) > 0;
}

// Calls f with a value of the type of `type`.
template <typename F>
SSD_OPS_HD auto dispatch_dtype(Dtype type, F&& f) {
  switch (type) {
    case Dtype::f64: return f(double());
    case Dtype::f16: return f(Half());
    case Dtype::bf16: return f(BFloat16());
    default: return f(float());
  }
}

// Row `row` of [N, 4] of any dtype.
template <typename T>
SSD_OPS_HD void load_four(Dtype type, const void* values, int64_t row, T* four) {
  dispatch_dtype(type, [&](auto zero) {
    const auto* from = static_cast<const decltype(zero)*>(values) + 4 * row;
    for (int k = 0; k < 4; ++k) four[k] = static_cast<T>(widen(from[k]));
  });
}

}  // namespace ssd_ops::cpu
