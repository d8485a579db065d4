// The first kernel of multibox_loss: log of the sum of exponentials and cross entropy of every row of logits.
//
// Plan: a group of lanes takes kRows rows at once and keeps them in registers, each lane every kGroup-th class, so that
// neighbouring lanes read neighbouring classes. Maximum and sum of exponentials come from shuffles inside the group, in
// an order that depends on the number of classes alone. Logits are read once.
#pragma once

#include "cuda/load.cuh"
#include "cuda/loss_numbers.cuh"

namespace ssd_ops {
namespace {

constexpr int kRowThreads = 256;
constexpr int kRows = 4;  // of a group of lanes

// A NaN may get lost here, but not in the sum of exponentials that follows.
__device__ __forceinline__ float higher(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double higher(double a, double b) { return fmax(a, b); }

// exp of a logit that is at most 0, but for rows with inf. Rounding x log2(e) shifts a term by |x| / 2 units in its
// last place, and a term with a large |x| has no say in a sum that is at least 1: fewer instructions than expf, no less
// exact.
__device__ __forceinline__ float exp_term(float x) { return exp2f(x * 1.44269504f); }
__device__ __forceinline__ double exp_term(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

// The highest or the sum of a group's values, for each of its lanes.
template <int kGroup, typename T>
__device__ __forceinline__ T group_highest(T value) {
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) value = higher(value, __shfl_xor_sync(kFullMask, value, step));
  return value;
}
template <int kGroup, typename T>
__device__ __forceinline__ T group_sum(T value) {
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullMask, value, step);
  return value;
}

template <typename T>
struct RowSum {
  T shift, sum;  // the highest logit (0 where that is infinite), and the sum of exp(logit - shift)
};

// Rows with at most kGroup * kEach classes. Where there are fewer than kRows, the last one stands in for the others.
template <int kGroup, int kEach, typename In, typename T = compute_t<In>>
__device__ __forceinline__ void sum_rows(const In* logits, int64_t rows, int classes, RowSum<T>* found) {
  const int lane = threadIdx.x % kGroup;
  T x[kRows][kEach];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const In* row = logits + (r < rows ? r : static_cast<int>(rows - 1)) * classes + lane;
#pragma unroll
    for (int k = 0; k < kEach; ++k) x[r][k] = k * kGroup + lane < classes ? widen(row[k * kGroup]) : -T(INFINITY);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    T top = x[r][0], sum = 0;
#pragma unroll
    for (int k = 1; k < kEach; ++k) top = higher(top, x[r][k]);
    top = group_highest<kGroup>(top);
    const T shift = isinf(top) ? T(0) : top;
#pragma unroll
    for (int k = 0; k < kEach; ++k) sum += exp_term(x[r][k] - shift);
    found[r] = {shift, group_sum<kGroup>(sum)};
  }
}

// Rows of any length; they are read twice, the second time from a cache. A group is a warp.
template <typename In, typename T = compute_t<In>>
__device__ __forceinline__ void sum_long_rows(const In* logits, int64_t rows, int64_t classes, RowSum<T>* found) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t count = r < rows ? classes : 0;
    T top = -T(INFINITY), sum = 0;
    for (int64_t c = lane; c < count; c += kWarpSize) top = higher(top, widen(logits[r * classes + c]));
    top = group_highest<kWarpSize>(top);
    const T shift = isinf(top) ? T(0) : top;
    for (int64_t c = lane; c < count; c += kWarpSize) sum += exp_term(widen(logits[r * classes + c]) - shift);
    found[r] = {shift, group_sum<kWarpSize>(sum)};
  }
}

// kEach = 0: rows of any length.
template <int kGroup, int kEach, typename In>
__global__ void __launch_bounds__(kRowThreads, 1) rows_kernel(LossTask task, LossScratch scratch) {
  using T = compute_t<In>;
  const int64_t rows = task.images * task.priors, classes = task.classes;
  // Groups beyond the last row read it too, as they take part in the shuffles, but write nothing.
  const int64_t first = global_thread() / kGroup * kRows, start = first < rows ? first : rows - 1;
  const In* logits = static_cast<const In*>(task.logits) + start * classes;
  RowSum<T> found[kRows], mine{};
  if constexpr (kEach == 0) {
    sum_long_rows(logits, rows - start, classes, found);
  } else {
    sum_rows<kGroup, kEach>(logits, rows - start, static_cast<int>(classes), found);
  }
  const int lane = threadIdx.x % kGroup;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (lane == r) mine = found[r];
  }
  int64_t label = 0;
  if (lane < kRows && first + lane < rows) {
    label = task.labels[first + lane];
    const T log_sum = log_of(mine.sum);
    const T target = widen(logits[lane * classes + (label > 0 && label < classes ? label : 0)]);
    static_cast<T*>(task.lse)[first + lane] = log_sum + mine.shift;
    static_cast<T*>(task.weight)[first + lane] = log_sum - (target - mine.shift);
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
