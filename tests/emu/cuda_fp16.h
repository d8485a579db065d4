// Test only: half precision as storage, with the conversions of the CUDA header; arithmetic is done in float.
#pragma once

#include <cstdint>
#include <cstring>

struct alignas(2) __half_raw {
  unsigned short x;
};

struct alignas(2) __half {
  unsigned short bits;

  __half() = default;
  __half(const __half_raw& raw) : bits(raw.x) {}
  __half(float value);
  operator float() const;
};
typedef __half half;
struct alignas(4) __half2 {
  __half x, y;
};
typedef __half2 half2;

inline float __half2float(__half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  uint32_t exponent = value.bits >> 10 & 0x1fu;
  uint32_t fraction = value.bits & 0x3ffu;
  uint32_t bits = sign;
  if (exponent == 31) {  // infinity and NaN, which stays a NaN with its payload
    bits |= 0x7f800000u | fraction << 13;
  } else if (exponent != 0) {
    bits |= (exponent + 112) << 23 | fraction << 13;
  } else if (fraction != 0) {  // a denormal half is a normal float
    exponent = 113;
    for (; (fraction & 0x400u) == 0; fraction <<= 1) --exponent;
    bits |= exponent << 23 | (fraction & 0x3ffu) << 13;
  }
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Rounds to nearest, ties to even; what is too large becomes infinity, every NaN 0x7fff as on the GPU.
inline __half __float2half_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    return __half_raw{0x7fff};
  } else if (magnitude >= 0x477ff000u) {  // 65520 and more
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal: 2^-14 and more
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // denormal: the float's addition rounds to a multiple of 2^-24
    float small;
    std::memcpy(&small, &magnitude, sizeof(small));
    small += 0.5f;  // the unit of 0.5 .. 1 is 2^-24
    std::memcpy(&half, &small, sizeof(half));
    half -= 0x3f000000u;
  }
  return __half_raw{static_cast<unsigned short>(sign | half)};
}
inline __half __float2half(float value) { return __float2half_rn(value); }
inline unsigned short __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline float __low2float(__half2 pair) { return __half2float(pair.x); }
inline float __high2float(__half2 pair) { return __half2float(pair.y); }
inline __half::__half(float value) : bits(__float2half_rn(value).bits) {}
inline __half::operator float() const { return __half2float(*this); }
