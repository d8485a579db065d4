// The first kernel of multibox_loss: log of the sum of exponentials and cross entropy of every row of logits.
//
// Plan: a group of lanes takes kRows rows at once and keeps them in registers, each lane every kGroup-th class, so that
// neighboring lanes read neighboring classes. Maximum and sum of exponentials come from shuffles inside the group, in
// an order that depends on the number of classes alone. Logits are read once.
#pragma once

#include "cuda/common/block_scan.cuh"
#include "cuda/common/load.cuh"
#include "cuda/loss/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kRowThreads = 256;
constexpr int kRows = 4;  // of a group of lanes

// A NaN may get lost here, but not in the sum of exponentials that follows.
__device__ __forceinline__ float higher(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double higher(double a, double b) { return fmax(a, b); }

// exp of a logit that is at most 0, but for rows with inf. Rounding x log2(e) shifts a term by |x| / 2 units in its
// last place, and a term with a large |x| has no say in a sum that is at least 1: fewer instructions than expf, no less
// exact. For the same reason a term below the normal numbers may be 0, which exp2f takes three instructions to avoid.
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
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

// Of kRows values a lane the highest or the sum over the group, each lane's for its own row, own_row(): half of the
// rows goes to the half of the lanes that own them, so kRows values take hardly more shuffles than one.
template <int kGroup, bool sums, typename T>
__device__ __forceinline__ T group_rows(T (&values)[kRows]) {
  static_assert(kRows == 4 && kGroup >= kRows, "two steps leave each lane one row");
  const auto join = [](T a, T b) { return sums ? a + b : higher(a, b); };
  const bool upper = (threadIdx.x & (kGroup / 2)) != 0, odd = (threadIdx.x & (kGroup / 4)) != 0;
  T pair[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const T kept = upper ? values[k + 2] : values[k], given = upper ? values[k] : values[k + 2];
    pair[k] = join(kept, __shfl_xor_sync(kFullMask, given, kGroup / 2));
  }
  T value = join(odd ? pair[1] : pair[0], __shfl_xor_sync(kFullMask, odd ? pair[0] : pair[1], kGroup / 4));
#pragma unroll
  for (int step = kGroup / 8; step > 0; step /= 2) value = join(value, __shfl_xor_sync(kFullMask, value, step));
  return value;
}
template <int kGroup>
__device__ __forceinline__ int own_row() {
  return static_cast<int>(threadIdx.x) % kGroup / (kGroup / kRows);
}

template <typename T>
struct RowSum {
  T shift, sum;  // the highest logit (0 where that is infinite), and the sum of exp(logit - shift)
};

// Of the lane's own row. Rows have at most kGroup * kEach classes; where there are fewer than kRows, the last one
// stands in for the others.
template <int kGroup, int kEach, typename In, typename T = compute_t<In>>
__device__ __forceinline__ RowSum<T> sum_rows(const In* logits, int64_t rows, int classes) {
  const int lane = threadIdx.x % kGroup;
  T x[kRows][kEach], tops[kRows], sums[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const In* row = logits + (r < rows ? r : static_cast<int>(rows - 1)) * classes + lane;
#pragma unroll
    for (int k = 0; k < kEach; ++k) x[r][k] = k * kGroup + lane < classes ? widen(row[k * kGroup]) : -T(INFINITY);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    tops[r] = x[r][0];
#pragma unroll
    for (int k = 1; k < kEach; ++k) tops[r] = higher(tops[r], x[r][k]);
  }
  const T top = group_rows<kGroup, false>(tops), shift = isinf(top) ? T(0) : top;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const T row_shift = __shfl_sync(kFullMask, shift, r * (kGroup / kRows), kGroup);
    sums[r] = exp_term(x[r][0] - row_shift);
#pragma unroll
    for (int k = 1; k < kEach; ++k) sums[r] += exp_term(x[r][k] - row_shift);
  }
  return {shift, group_rows<kGroup, true>(sums)};
}

// Rows of any length; they are read twice, the second time from a cache. A group is a warp.
template <typename In, typename T = compute_t<In>>
__device__ __forceinline__ RowSum<T> sum_long_rows(const In* logits, int64_t rows, int64_t classes) {
  const int lane = threadIdx.x % kWarpSize;
  RowSum<T> mine{};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t count = r < rows ? classes : 0;
    T top = -T(INFINITY), sum = 0;
    for (int64_t c = lane; c < count; c += kWarpSize) top = higher(top, widen(logits[r * classes + c]));
    for (int step = kWarpSize / 2; step > 0; step /= 2) top = higher(top, __shfl_xor_sync(kFullMask, top, step));
    const T shift = isinf(top) ? T(0) : top;
    for (int64_t c = lane; c < count; c += kWarpSize) sum += exp_term(widen(logits[r * classes + c]) - shift);
    sum = warp_sum(sum);
    if (own_row<kWarpSize>() == r) mine = {shift, sum};
  }
  return mine;
}

// kEach = 0: rows of any length.
template <int kGroup, int kEach, typename In>
__global__ void __launch_bounds__(kRowThreads, 1) rows_kernel(LossTask task, LossScratch scratch) {
  using T = compute_t<In>;
  await_previous();
  const int64_t rows = task.images * task.priors, classes = task.classes;
  // Groups beyond the last row read it too, as they take part in the shuffles, but write nothing.
  const int64_t first = global_thread() / kGroup * kRows, start = first < rows ? first : rows - 1;
  const In* logits = static_cast<const In*>(task.logits) + start * classes;
  RowSum<T> mine;
  if constexpr (kEach == 0) {
    mine = sum_long_rows(logits, rows - start, classes);
  } else {
    mine = sum_rows<kGroup, kEach>(logits, rows - start, static_cast<int>(classes));
  }
  const int64_t row = own_row<kGroup>();
  int64_t label = 0;
  if (threadIdx.x % (kGroup / kRows) == 0 && first + row < rows) {
    label = task.labels[first + row];
    const T log_sum = log_of(mine.sum);
    const T target = widen(logits[row * classes + (label > 0 && label < classes ? label : 0)]);
    static_cast<T*>(task.lse)[first + row] = log_sum + mine.shift;
    static_cast<T*>(task.weight)[first + row] = log_sum - (target - mine.shift);
  }
  const int positives = __syncthreads_count(label > 0);
  if (threadIdx.x == 0) scratch.positives[blockIdx.x] = positives;
  if (blockIdx.x == 0 && threadIdx.x == 0) *scratch.finished = 0;
  for (int64_t i = global_thread(); i < scratch.zero_words; i += global_threads()) scratch.zeros[i] = 0;
}

template <int kGroup, int kEach, typename In>
cudaError_t launch_rows_of(const LossTask& task, const LossScratch& scratch, cudaStream_t stream) {
  return launch(rows_kernel<kGroup, kEach, In>, grid_blocks(scratch.row_blocks, 1), kRowThreads, 0, stream, task,
                scratch);
}

// Rows that a block takes, by the number of classes; launch_rows() has the same limits.
inline int64_t rows_of_block(int64_t classes) {
  const int group = classes <= 8 ? 4 : classes <= 24 ? 8 : classes <= 96 ? 16 : 32;
  return kRowThreads / group * kRows;
}

inline cudaError_t launch_rows(const LossTask& task, const LossScratch& scratch, cudaStream_t stream) {
  return dispatch_dtype(task.logits_type, [&](auto zero) {
    using In = decltype(zero);
    if (task.classes <= 8) return launch_rows_of<4, 2, In>(task, scratch, stream);
    if (task.classes <= 24) return launch_rows_of<8, 3, In>(task, scratch, stream);
    if (task.classes <= 96) return launch_rows_of<16, 6, In>(task, scratch, stream);
    if (task.classes <= 256) return launch_rows_of<32, 8, In>(task, scratch, stream);
    return launch_rows_of<32, 0, In>(task, scratch, stream);
  });
}

}  // namespace
}  // namespace ssd_ops
