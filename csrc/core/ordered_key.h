// Floating-point numbers as unsigned integers that have their order: sort keys for radix sort and radix select, and
// values for integer atomics.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/host_device.h"

namespace ssd_ops {

// The unsigned integer that is as wide as T.
template <typename T>
using sort_key_t = std::conditional_t<sizeof(T) == sizeof(uint64_t), uint64_t, uint32_t>;

template <typename T>
SSD_OPS_HD sort_key_t<T> to_bits(T x) {
  sort_key_t<T> bits;
  memcpy(&bits, &x, sizeof(bits));
  return bits;
}

template <typename T>
SSD_OPS_HD T from_bits(sort_key_t<T> bits) {
  T x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

// Descending: a higher score has a lower key. -0 has the key of 0. The score must not be NaN.
template <typename T>
SSD_OPS_HD sort_key_t<T> descending_key(T score) {
  constexpr sort_key_t<T> sign = sort_key_t<T>(1) << (8 * sizeof(T) - 1);
  const sort_key_t<T> bits = to_bits(score + T(0));
  return bits & sign ? bits : ~bits & ~sign;
}

// The same, and NaN precedes every number.
template <typename T>
SSD_OPS_HD sort_key_t<T> descending_key_nan_first(T score) {
  const sort_key_t<T> key = descending_key(score);
  return score != score ? sort_key_t<T>(0) : key;
}

// The score of a descending_key(); 0 for -0.
template <typename T>
SSD_OPS_HD T score_of_key(sort_key_t<T> key) {
  constexpr sort_key_t<T> sign = sort_key_t<T>(1) << (8 * sizeof(T) - 1);
  return from_bits<T>(key & sign ? key : ~key & ~sign);
}

}  // namespace ssd_ops
