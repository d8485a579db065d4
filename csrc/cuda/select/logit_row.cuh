// The softmax of one prior for any number of classes: logits are read from memory at each access.
#pragma once

#include "core/detections.h"
#include "cuda/common/load.cuh"
#include "cuda/common/math.cuh"
#include "cuda/common/reduce.cuh"

namespace ssd_ops {
namespace {

// Which logits and scores become candidates.
template <typename T>
struct Filter {
  T score_threshold, margin;  // see min_logit_margin()
  bool best_only;

  // A class with a logit up to this bound is no candidate.
  __device__ __forceinline__ T logit_bound(T background) const {
    const T bound = candidate_logit_bound(background, margin);
    return best_only ? greater(bound, background) : bound;
  }
};

constexpr int kAnyLabel = -1;  // in place of the best label of a prior: all of its labels may be candidates

// The reductions of a softmax over the classes of a prior. A NaN or inf among the logits makes the sum NaN, and then
// the prior has no candidates.
template <typename T>
struct Softmax {
  T max, sum;  // of the logits, and of their exponentials relative to the maximum

  // Whether no score reaches the threshold: none is above 1 / sum.
  __device__ __forceinline__ bool all_below(T threshold) const {
    return sum * threshold > T(1) + 4 * kLogitRounding<T>;
  }
};

// The logits of one prior, processed by a warp. Each group of `group_size` lanes does the same work as the others: lane
// l of a group has the classes l, l + group_size, ... So terms are added in the same order as in PriorLogits, where
// each group has a prior of its own, and both give the same bits.
template <typename In, typename T = compute_t<In>>
struct LogitRow {
  const In* logits;
  int classes, group_size;

  __device__ __forceinline__ int steps() const { return static_cast<int>(ceil_div(classes, group_size)); }
  __device__ __forceinline__ int label(int k) const {
    return k * group_size + static_cast<int>(threadIdx.x) % group_size;
  }
  __device__ __forceinline__ T operator[](int k) const {
    return label(k) < classes ? widen(logits[label(k)]) : -T(INFINITY);
  }

  template <typename V, typename Combine>
  __device__ __forceinline__ V reduce(V value, Combine combine) const {
    return reduce_lanes(value, group_size, combine);
  }

  __device__ __forceinline__ bool may_have_candidate(const Filter<T>& filter) const {
    T max = -T(INFINITY);
#pragma unroll 4
    for (int c = 1 + static_cast<int>(threadIdx.x) % kWarpSize; c < classes; c += kWarpSize)
      max = greater(static_cast<T>(widen(logits[c])), max);
    return __any_sync(kFullMask, max > filter.logit_bound(widen(logits[0]))) != 0;
  }

  __device__ __forceinline__ Softmax<T> softmax() const {
    T max = (*this)[0], sum = 0;
    for (int k = 1; k < steps(); ++k) max = greater((*this)[k], max);
    max = reduce(max, [](T own, T other) { return greater(other, own); });
    for (int k = 0; k < steps(); ++k) sum += label(k) < classes ? exp_of((*this)[k] - max) : T(0);
    return {max, reduce(sum, [](T own, T other) { return own + other; })};
  }

  // The lowest class with the maximum logit.
  __device__ __forceinline__ int best_label(T max) const {
    int best = classes;
    for (int k = 0; k < steps(); ++k)
      if ((*this)[k] == max && label(k) < best) best = label(k);
    return reduce(best, [](int own, int other) { return other < own ? other : own; });
  }

  // Calls f(whether the class is a candidate, its score, its label) for each class of the first group of lanes. All
  // lanes make the same number of calls, those without a class with false, so that f may use warp collectives.
  template <typename F>
  __device__ __forceinline__ void for_each_score(const Filter<T>& filter, F&& f) const {
    if (filter.score_threshold > T(0) && !may_have_candidate(filter)) return;
    const Softmax<T> all = softmax();
    const int best = filter.best_only ? best_label(all.max) : kAnyLabel;
    for (int k = 0; k < steps(); ++k) {
      const bool first_group = static_cast<int>(threadIdx.x) % kWarpSize < group_size;
      const bool eligible =
          first_group && label(k) > 0 && label(k) < classes && (best == kAnyLabel || label(k) == best);
      const T score = eligible ? exp_of((*this)[k] - all.max) / all.sum : T(0);
      f(eligible && score >= filter.score_threshold, score, label(k));
    }
  }
};

}  // namespace
}  // namespace ssd_ops
