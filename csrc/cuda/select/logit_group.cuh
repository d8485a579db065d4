// The logits of the priors that a block of collect_logits_kernel processes together, in shared memory.
#pragma once

#include "cuda/select/append.cuh"
#include "cuda/select/logit_row.cuh"

namespace ssd_ops {
namespace {

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

  // Adds the candidates of the group's prior, unless the group is to be skipped (not `wanted`).
  __device__ __forceinline__ void add_candidates(bool wanted, T threshold, const Filter<T>& filter, unsigned num_priors,
                                                 unsigned prior, StagedCandidates<T>& staged) const {
    T scores[kPerLane];
    const Softmax<T> all = softmax(scores);
    if (!__any_sync(kFullMask, wanted && !all.all_below(threshold))) return;
    const int best = filter.best_only ? best_label(all.max) : kAnyLabel;
    bool adds[kPerLane];
    unsigned indices[kPerLane];
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      scores[k] /= all.sum;
      adds[k] = wanted && label(k) > 0 && label(k) < classes && (best == kAnyLabel || label(k) == best) &&
                scores[k] >= threshold;
      indices[k] = static_cast<unsigned>(label(k)) * num_priors + prior;
    }
    staged.add(adds, scores, indices);
  }
};

// Rows of logits of consecutive priors in shared memory.
template <typename In, typename T = compute_t<In>>
struct LogitTile {
  const In* rows;  // of the warp
  int rows_per_warp, count, classes;

  // Which rows have a class that exceeds the bound of candidates: bit r for row r. One or two lanes test a row, each a
  // range of its classes. With a NaN logit either answer is correct, since no score is appended. If the number of
  // classes is even, rows begin with different classes: else many lanes would read from the same bank.
  __device__ __forceinline__ unsigned may_have_candidate(const Filter<T>& filter) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize, r = lane & (rows_per_warp - 1);
    const unsigned all = count <= 0 ? 0 : kFullMask >> (kWarpSize - (count < rows_per_warp ? count : rows_per_warp));
    if (!(filter.score_threshold > T(0)) || all == 0) return all;
    const bool second_half = lane >= rows_per_warp;
    const In* row = rows + (r < count ? r : 0) * classes;
    const int middle = rows_per_warp == kWarpSize ? classes : classes / 2 + 1, begin = second_half ? middle : 1,
              end = second_half ? classes : middle;
    T max = -T(INFINITY);
    if (classes % 2 != 0) {
#pragma unroll 8
      for (int c = begin; c < end; ++c) max = greater(static_cast<T>(widen(row[c])), max);
    } else {
      int c = end > begin ? begin + r % (end - begin) : begin;
#pragma unroll 4
      for (int k = begin; k < end; ++k) {
        max = greater(static_cast<T>(widen(row[c])), max);
        c = c + 1 < end ? c + 1 : begin;
      }
    }
    const unsigned lanes = __ballot_sync(kFullMask, max > filter.logit_bound(widen(row[0])));
    return (rows_per_warp == kWarpSize ? lanes : lanes | lanes >> rows_per_warp) & all;
  }

  // Appends the candidates of the rows in the mask `wanted`; a group of kGroup lanes processes one row at a time.
  // `threshold` is a current_threshold().
  template <int kGroup, int kPerLane>
  __device__ __forceinline__ void append_candidates(unsigned wanted, T threshold, const Filter<T>& filter,
                                                    const CandidateLists& lists, int64_t local_image,
                                                    unsigned num_priors, unsigned first,
                                                    StagedCandidates<T> staged) const {
    constexpr int kGroups = kWarpSize / kGroup, kMaxAdded = kGroups * kGroup * kPerLane;
    static_assert(kMaxAdded <= staged.kCapacity);
    while (wanted != 0) {
      unsigned own = wanted;  // the lowest row in it is that of the group
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        if (g < static_cast<int>(threadIdx.x) % kWarpSize / kGroup) own &= own - 1;
        wanted &= wanted - 1;
      }
      const int row = own != 0 ? __ffs(static_cast<int>(own)) - 1 : 0;
      PriorLogits<kGroup, kPerLane, T> group;
      group.load(rows + row * classes, classes);
      group.add_candidates(own != 0, threshold, filter, num_priors, first + static_cast<unsigned>(row), staged);
      if (staged.count + kMaxAdded <= staged.kCapacity) continue;
      staged.flush(lists, local_image);
      threshold = current_threshold(lists, local_image, filter.score_threshold);
    }
    staged.flush(lists, local_image);
  }
};

}  // namespace
}  // namespace ssd_ops
