// How CPU kernels read and write numbers of the four dtypes: half precision becomes float, double stays.
//
// float16 and bfloat16 are plain bits, widened to float exactly and narrowed to the nearest, ties to even. Branch-free,
// so that the compiler puts loops over them into vectors, and without subnormal floats, which a process may have told
// its CPU to flush (torch.set_flush_denormal).
#pragma once

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

namespace ssd_ops::cpu {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// The dtype of the arithmetic for an input of type In.
template <typename In>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename In>
using compute_t = typename ComputeType<In>::type;

// always_inline: a shared copy could be the one compiled for a wider instruction set than the machine has.
#define SSD_OPS_INLINE inline __attribute__((always_inline))

namespace half {
SSD_OPS_INLINE float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}
SSD_OPS_INLINE uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
}  // namespace half

SSD_OPS_INLINE float widen(float x) { return x; }
SSD_OPS_INLINE double widen(double x) { return x; }
SSD_OPS_INLINE float widen(BFloat16 x) { return half::from_bits(static_cast<uint32_t>(x.bits) << 16); }

SSD_OPS_INLINE float widen(Half x) {
  const uint32_t magnitude = x.bits & 0x7fffu, sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t normal = (magnitude << 13) + (112u << 23);  // the exponent's bias is 127 instead of 15
  const uint32_t subnormal = half::to_bits(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t infinite = (magnitude << 13) | 0x7f800000u;  // NaN too
  const uint32_t finite = magnitude < 0x0400u ? subnormal : normal;
  return half::from_bits((magnitude < 0x7c00u ? finite : infinite) | sign);
}

// x in the dtype Out.
template <typename Out>
SSD_OPS_INLINE Out narrow(compute_t<Out> x) {
  return x;
}
template <>
SSD_OPS_INLINE BFloat16 narrow<BFloat16>(float x) {
  const uint32_t bits = half::to_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0u)};
}
template <>
SSD_OPS_INLINE Half narrow<Half>(float x) {
  const uint32_t bits = half::to_bits(x), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  const uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - (112u << 23)) >> 13;
  // One half plus a number below 2^-14: the sum's last bit is worth 2^-24, as that of a subnormal half.
  const uint32_t subnormal = half::to_bits(half::from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t infinite = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return {static_cast<uint16_t>((magnitude < 0x477ff000u ? finite : infinite) | sign)};
}

// Whether x, a number, is above 0, also where the CPU takes subnormal numbers for 0.
SSD_OPS_INLINE bool above_zero(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits > 0;
}
SSD_OPS_INLINE bool above_zero(double x) {
  int64_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits > 0;
}

// Calls f with a value of the type that `type` names.
template <typename F>
SSD_OPS_INLINE auto dispatch_dtype(Dtype type, F&& f) {
  switch (type) {
    case Dtype::f64: return f(double());
    case Dtype::f16: return f(Half());
    case Dtype::bf16: return f(BFloat16());
    default: return f(float());
  }
}

// Row `row` of [N, 4] of any dtype.
template <typename T>
SSD_OPS_INLINE void load_four(Dtype type, const void* values, int64_t row, T* four) {
  dispatch_dtype(type, [&](auto zero) {
    const auto* from = static_cast<const decltype(zero)*>(values) + 4 * row;
    for (int k = 0; k < 4; ++k) four[k] = static_cast<T>(widen(from[k]));
  });
}

#undef SSD_OPS_INLINE

}  // namespace ssd_ops::cpu
