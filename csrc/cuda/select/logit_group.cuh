// The logits of the priors that a warp of collect_logits_kernel processes together, in registers.
#pragma once

#include "cuda/select/append.cuh"
#include "cuda/select/logit_row.cuh"

namespace ssd_ops {
namespace {

constexpr int kPriorsPerGroup = 4;
template <int kGroup>
constexpr int kPriorsPerWarp = kWarpSize / kGroup * kPriorsPerGroup;

// The logits of one prior per group of kGroup lanes; a lane has every kGroup-th class, at most kPerLane. All lanes of
// the warp call the functions.
template <int kGroup, int kPerLane, typename T>
struct PriorLogits {
  T logits[kPerLane];
  int classes;

  __device__ __forceinline__ static int lane() { return static_cast<int>(threadIdx.x) % kGroup; }
  __device__ __forceinline__ static int label(int k) { return k * kGroup + lane(); }

  template <typename In>
  __device__ __forceinline__ void load(const In* row, int num_classes) {
    classes = num_classes;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) logits[k] = label(k) < classes ? widen(row[label(k)]) : -T(INFINITY);
  }

  // Whether the logit of a class exceeds the bound of candidates; all lanes of the group get it. With a NaN logit
  // either answer is correct, since no score is appended.
  __device__ __forceinline__ bool may_have_candidate(const Filter<T>& filter) const {
    const T background = __shfl_sync(kFullMask, logits[0], 0, kGroup);
    T max = lane() > 0 ? logits[0] : -T(INFINITY);
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) max = greater(logits[k], max);
    const unsigned lanes = __ballot_sync(kFullMask, max > filter.logit_bound(background));
    const int first_lane = static_cast<int>(threadIdx.x) % kWarpSize - lane();
    return (lanes >> first_lane & (kFullMask >> (kWarpSize - kGroup))) != 0;
  }

  // Also writes the exponentials of the lane's classes.
  __device__ __forceinline__ Softmax<T> softmax(T (&exponentials)[kPerLane]) const {
    T max = logits[0], sum = 0;
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) max = greater(logits[k], max);
    max = warp_reduce<kGroup>(max, [](T own, T other) { return greater(other, own); });
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      exponentials[k] = label(k) < classes ? exp_of(logits[k] - max) : T(0);
      sum += exponentials[k];
    }
    return {max, warp_sum<kGroup>(sum)};
  }

  // The lowest class with the maximum logit.
  __device__ __forceinline__ int best_label(T max) const {
    int best = classes;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k)
      if (logits[k] == max && label(k) < best) best = label(k);
    return warp_reduce<kGroup>(best, [](int own, int other) { return other < own ? other : own; });
  }

  // Appends the candidates of the group's prior, unless the group is to be skipped (not `wanted`).
  __device__ __forceinline__ void append_candidates(bool wanted, const Filter<T>& filter, const CandidateLists& lists,
                                                    int64_t local_image, unsigned num_priors, unsigned prior) const {
    const T threshold = current_threshold(lists, local_image, filter.score_threshold);
    T scores[kPerLane];
    const Softmax<T> all = softmax(scores);
    if (!__any_sync(kFullMask, wanted && !all.all_below(threshold))) return;
    const int best = filter.best_only ? best_label(all.max) : kAnyLabel;
    bool appends[kPerLane];
    unsigned indices[kPerLane];
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      scores[k] /= all.sum;
      appends[k] = wanted && label(k) > 0 && label(k) < classes && (best == kAnyLabel || label(k) == best) &&
                   scores[k] >= threshold;
      indices[k] = static_cast<unsigned>(label(k)) * num_priors + prior;
    }
    append(lists, local_image, appends, scores, indices);
  }
};

// Consecutive priors of an image that a warp processes together; those of group g begin at g * kPriorsPerGroup.
template <int kGroup, int kPerLane, typename In, typename T = compute_t<In>>
struct WarpPriors {
  using Group = PriorLogits<kGroup, kPerLane, T>;

  const In* rows;  // logits of the first prior
  int count, classes;

  // The index among these priors of prior r of the lane's group.
  __device__ __forceinline__ int prior(int r) const {
    return static_cast<int>(threadIdx.x) % kWarpSize / kGroup * kPriorsPerGroup + r;
  }
  __device__ __forceinline__ const In* row(int r) const {
    return rows + static_cast<int64_t>(prior(r) < count ? prior(r) : 0) * classes;
  }

  // Which priors of the group may have candidates: bit r for prior r. All logits are loaded before the first is used.
  __device__ __forceinline__ unsigned may_have_candidate(const Filter<T>& filter) const {
    Group groups[kPriorsPerGroup];
    unsigned result = 0;
#pragma unroll
    for (int r = 0; r < kPriorsPerGroup; ++r) groups[r].load(row(r), classes);
#pragma unroll
    for (int r = 0; r < kPriorsPerGroup; ++r) {
      const bool may = groups[r].may_have_candidate(filter) || !(filter.score_threshold > T(0));
      result |= (may && prior(r) < count ? 1u : 0u) << r;
    }
    return result;
  }

  // Appends the candidates of the group's priors in the mask `priors`. Their logits are loaded again, from the cache:
  // few priors have candidates, and keeping the logits of all would take too many registers.
  __device__ __forceinline__ void append_candidates(unsigned priors, const Filter<T>& filter,
                                                    const CandidateLists& lists, int64_t local_image,
                                                    unsigned num_priors, unsigned first) const {
#pragma unroll 1
    for (int r = 0; r < kPriorsPerGroup; ++r) {
      const bool wanted = (priors >> r & 1) != 0;
      if (!__any_sync(kFullMask, wanted)) continue;
      Group group;
      group.load(row(r), classes);
      group.append_candidates(wanted, filter, lists, local_image, num_priors, first + static_cast<unsigned>(prior(r)));
    }
  }
};

}  // namespace
}  // namespace ssd_ops
