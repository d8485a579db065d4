// The softmax of the logits of one prior, which a warp has: a lane every 32nd class.
#pragma once

#include "core/detections.h"
#include "cuda/common/load.cuh"
#include "cuda/common/math.cuh"
#include "cuda/common/reduce.cuh"

namespace ssd_ops {
namespace {

// The logits of one prior that a lane has, every 32nd. kPerLane is their number, or 0 for any number: they are then
// read again for each access.
template <int kPerLane, typename In, typename T = compute_t<In>>
struct LogitRow {
  const In* logits;
  int classes;
  T loaded[kPerLane > 0 ? kPerLane : 1];

  __device__ __forceinline__ void load(const In* row, int count) {
    logits = row;
    classes = count;
    if constexpr (kPerLane > 0) {
#pragma unroll
      for (int k = 0; k < kPerLane; ++k) loaded[k] = read(k);
    }
  }
  __device__ __forceinline__ int steps() const {
    return kPerLane > 0 ? kPerLane : static_cast<int>(ceil_div(classes, kWarpSize));
  }
  __device__ __forceinline__ int label(int k) const {
    return k * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize;
  }
  __device__ __forceinline__ T read(int k) const { return label(k) < classes ? widen(logits[label(k)]) : -T(INFINITY); }
  __device__ __forceinline__ T operator[](int k) const {
    if constexpr (kPerLane > 0) return loaded[k];
    return read(k);
  }
};

// What softmax_of() knows of a prior. A NaN or inf among the logits makes the sum NaN, and then it has no candidates.
template <typename T>
struct Softmax {
  T max, sum;  // of the logits, and of their exponentials relative to the maximum

  __device__ __forceinline__ T score(T logit) const { return exp_of(logit - max) / sum; }
  // Whether no score reaches the threshold: none is above 1 / sum.
  __device__ __forceinline__ bool all_below(T threshold) const {
    return sum * threshold > T(1) + 4 * kLogitRounding<T>;
  }
};

template <int kPerLane, typename In, typename T = compute_t<In>>
__device__ __forceinline__ Softmax<T> softmax_of(const LogitRow<kPerLane, In>& row) {
  T max = row[0], sum = 0;
#pragma unroll
  for (int k = 1; k < row.steps(); ++k) max = greater(row[k], max);
  max = warp_reduce(max, [](T own, T other) { return greater(other, own); });
#pragma unroll
  for (int k = 0; k < row.steps(); ++k) sum += row.label(k) < row.classes ? exp_of(row[k] - max) : T(0);
  return {max, warp_sum(sum)};
}

constexpr int kAnyLabel = -1;

// Whether the k-th class of the lane may be a candidate: not the background, and `best` unless that is kAnyLabel.
template <int kPerLane, typename In>
__device__ __forceinline__ bool is_eligible(const LogitRow<kPerLane, In>& row, int k, int best) {
  const int label = row.label(k);
  return label > 0 && label < row.classes && (best == kAnyLabel || label == best);
}

// The lowest class with the maximum logit, for all lanes.
template <int kPerLane, typename In, typename T>
__device__ int best_label(const LogitRow<kPerLane, In>& row, T max) {
  int best = row.classes;
#pragma unroll
  for (int k = 0; k < row.steps(); ++k)
    if (row[k] == max && row.label(k) < best) best = row.label(k);
  return warp_reduce(best, [](int own, int other) { return other < own ? other : own; });
}

}  // namespace
}  // namespace ssd_ops
