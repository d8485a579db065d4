// The sum of exponentials of a row of logits.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/common/math.cuh"
#include "cuda/common/reduce.cuh"

namespace ssd_ops {
namespace {

// Ignores NaN; the sum of exponentials that follows does not.
__device__ __forceinline__ float max_of(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double max_of(double a, double b) { return fmax(a, b); }

// exp of a shifted logit, which is at most 0 except in rows with inf, for a sum that is at least 1. Rounding x log2(e)
// changes a term by |x| / 2 ulp, but terms with a large |x| contribute little to the sum: fewer instructions than expf,
// and as accurate. For the same reason subnormal terms may become 0, which exp2f takes three instructions to avoid.
__device__ __forceinline__ float exp_term(float x) {
#ifdef SSD_OPS_EMULATED
  return exp2f(x * 1.44269504f);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504f));
  return y;
#endif
}
__device__ __forceinline__ double exp_term(double x) { return exp(x); }

template <typename T>
struct RowSum {
  T shift, sum;  // the maximum logit (0 if it is infinite), and the sum of exp(logit - shift)
};

// The sum of one row over the lanes of a warp; logits are read twice, the second time from the cache.
template <typename In, typename T = compute_t<In>>
__device__ __forceinline__ RowSum<T> warp_row_sum(const In* logits, int64_t classes) {
  const int lane = threadIdx.x % kWarpSize;
  T max = -T(INFINITY), sum = 0;
#pragma unroll 1
  for (int64_t c = lane; c < classes; c += kWarpSize) max = max_of(max, widen(logits[c]));
  max = warp_reduce(max, [](T own, T other) { return max_of(own, other); });
  const T shift = isinf(max) ? T(0) : max;
#pragma unroll 1
  for (int64_t c = lane; c < classes; c += kWarpSize) sum += exp_term(widen(logits[c]) - shift);
  return {shift, warp_sum(sum)};
}

}  // namespace
}  // namespace ssd_ops
