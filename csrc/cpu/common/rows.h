// Rows of scores or logits, widened to the dtype of the arithmetic.
#pragma once

#include "cpu/common/load.h"
#include "cpu/common/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// Calls f with a value of the type of `dtype`, which is computed in T.
template <typename T, typename F>
void with_dtype(Dtype dtype, F&& f) {
  if constexpr (sizeof(T) == 8) {
    f(double());
  } else {
    if (dtype == Dtype::f16) return f(Half());
    if (dtype == Dtype::bf16) return f(BFloat16());
    f(float());
  }
}

// Row number i of [rows, n]; if it has to be widened, in `buffer` of n elements.
template <typename In>
inline const compute_t<In>* widened_row(const In* rows, int64_t i, int64_t n, compute_t<In>* buffer) {
  const In* row = rows + i * n;
  if constexpr (std::is_same_v<In, compute_t<In>>) {
    return row;
  } else {
    for (int64_t c = 0; c < n; ++c) buffer[c] = widen(row[c]);
    return buffer;
  }
}

// Whether a value other than the first exceeds the limit, or (`equal`) reaches it.
template <bool equal, typename T>
inline bool any_above(const T* __restrict row, int64_t n, T limit) {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Flag any = 0;
  for (int64_t c = 1; c < n; ++c) any |= (equal ? row[c] >= limit : row[c] > limit) ? Flag(-1) : Flag(0);
  return any != 0;
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
