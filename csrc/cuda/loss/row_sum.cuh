// The sum of exponentials of a row of logits. Its order depends on the number of classes alone.
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

template <typename T>
__device__ __forceinline__ T shift_of(T max) {
  return isinf(max) ? T(0) : max;
}

// Calls f(x, k) for the logits of a lane, every `lanes`-th of the row in order; k counts them modulo 4.
template <typename In, typename F>
__device__ __forceinline__ void for_each_logit(const In* row, int classes, int lane, int lanes, F f) {
  int c = lane;
#pragma unroll 4
  for (; c + 3 * lanes < classes; c += 4 * lanes) {
#pragma unroll
    for (int k = 0; k < 4; ++k) f(widen(row[c + k * lanes]), k);
  }
  for (; c < classes; c += lanes) f(widen(row[c]), 0);
}

// The same in half precision, two logits at a time, as 32-bit words: half as many loads. A row may begin and end in the
// middle of a word; the other half of that word counts as -inf. k is 0 for the low half and 1 for the high half.
// Which half a logit is in depends on where the row begins; which logits are in the same half does not.
template <typename In, typename F>
__device__ __forceinline__ void for_each_half(const In* row, int classes, int lane, int lanes, F f) {
  struct alignas(4) Pair {
    In low, high;
  };
  const int skipped = static_cast<int>(reinterpret_cast<uintptr_t>(row) / sizeof(In) % 2);
  const Pair* pairs = reinterpret_cast<const Pair*>(row - skipped);
  const int end = skipped + classes, count = (end + 1) / 2;
  const auto use = [&](int at, bool has_low, bool has_high) {
    const Pair pair = pairs[at];
    f(has_low ? widen(pair.low) : -INFINITY, 0);
    f(has_high ? widen(pair.high) : -INFINITY, 1);
  };
  // The first and the last pair apart from the others: those need no test.
  if (lane == 0) use(0, skipped == 0, end > 1);
#pragma unroll 8
  for (int at = lane == 0 ? lanes : lane; at < count - 1; at += lanes) use(at, true, true);
  if (count > 1 && (count - 1) % lanes == lane) use(count - 1, true, end % 2 == 0);
}

// The sum of a row of at least one class over `lanes` neighboring lanes, a power of two; `lane` is the index of this
// one. kPairs: see for_each_half(); the memory has 2 bytes more than the row, and if classes are odd, `lanes` is 1.
template <bool kPairs, typename In, typename T = compute_t<In>>
__device__ __forceinline__ RowSum<T> row_sum(const In* row, int classes, int lane, int lanes) {
  const auto for_each = [&](auto f) {
    if constexpr (kPairs) {
      for_each_half(row, classes, lane, lanes, f);
    } else {
      for_each_logit(row, classes, lane, lanes, f);
    }
  };
  T maxima[4] = {-T(INFINITY), -T(INFINITY), -T(INFINITY), -T(INFINITY)}, sums[4] = {0, 0, 0, 0};
  for_each([&](T x, int k) { maxima[k] = max_of(maxima[k], x); });
  const T own = max_of(max_of(maxima[0], maxima[1]), max_of(maxima[2], maxima[3]));
  const T shift = shift_of(reduce_lanes(own, lanes, [](T a, T b) { return max_of(a, b); }));
  for_each([&](T x, int k) { sums[k] += exp_term(x - shift); });
  const T sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return {shift, reduce_lanes(sum, lanes, [](T a, T b) { return a + b; })};
}

}  // namespace
}  // namespace ssd_ops
