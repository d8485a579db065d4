// Which priors may have a candidate, decided without a softmax. The plan is in detect.cu.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/select/append.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kPriorsPerGroup = 4;

// The number of priors that a warp takes at once.
template <int kGroup>
__host__ __device__ constexpr int priors_per_warp() {
  return kWarpSize / kGroup * kPriorsPerGroup;
}

__device__ __forceinline__ float approximate_exp(float x) {
#ifdef SSD_OPS_EMULATED
  return expf(x);
#else
  return __expf(x);
#endif
}

// Which logits and scores become candidates.
template <typename T>
struct Filter {
  T score_threshold, margin;  // see min_logit_margin()
  bool best_only;

  // A class whose logit is not above this is no candidate.
  __device__ __forceinline__ T logit_bound(T background) const {
    const T bound = candidate_logit_bound(background, margin);
    return best_only ? greater(bound, background) : bound;
  }
};

// Whether certainly no class of a prior reaches the score threshold: no score exceeds 1 / (sum of exponentials relative
// to the maximum). The lanes of a group have its logits. Approximate, with a margin: false if it is close, and with a
// NaN.
template <int kGroup, int kPerLane>
__device__ __forceinline__ bool certainly_below(const float (&x)[kPerLane], float score_threshold) {
  float max = x[0], sum = 0;
#pragma unroll
  for (int k = 1; k < kPerLane; ++k) max = greater(x[k], max);
  max = warp_reduce<kGroup>(max, [](float own, float other) { return greater(other, own); });
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) sum += approximate_exp(x[k] - max);
  return warp_sum<kGroup>(sum) * score_threshold > 1.01f;
}

// Which of `count` priors (at most 32 / kGroup * kPriorsPerGroup) may have a candidate: a bit for each, the same for
// all lanes. Group g has the priors from g * kPriorsPerGroup on. With a NaN among the logits either answer is correct.
template <int kGroup, int kPerLane, typename In, typename T>
__device__ __forceinline__ unsigned may_have_candidate(const In* logits, int count, int classes,
                                                       const Filter<T>& filter, const CandidateLists& lists,
                                                       int64_t local_image) {
  constexpr int kGroups = kWarpSize / kGroup;
  const int lane = threadIdx.x % kGroup, group = threadIdx.x % kWarpSize / kGroup;
  T x[kPriorsPerGroup][kPerLane];
#pragma unroll
  for (int r = 0; r < kPriorsPerGroup; ++r) {
    const int prior = group * kPriorsPerGroup + r;
    const In* row = logits + static_cast<int64_t>(prior < count ? prior : 0) * classes + lane;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) x[r][k] = k * kGroup + lane < classes ? widen(row[k * kGroup]) : -T(INFINITY);
  }
  unsigned lanes[kPriorsPerGroup], any = 0;
#pragma unroll
  for (int r = 0; r < kPriorsPerGroup; ++r) {
    const T background = __shfl_sync(kFullMask, x[r][0], 0, kGroup);
    T max = lane > 0 ? x[r][0] : -T(INFINITY);
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) max = greater(x[r][k], max);
    lanes[r] = __ballot_sync(kFullMask, max > filter.logit_bound(background) && group * kPriorsPerGroup + r < count);
    any |= lanes[r];
  }
  if (any == 0) return 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    const T threshold = current_threshold(lists, local_image, filter.score_threshold);
    if (threshold > filter.score_threshold) {  // usually far above it
#pragma unroll
      for (int r = 0; r < kPriorsPerGroup; ++r)
        lanes[r] &= __ballot_sync(kFullMask, !certainly_below<kGroup>(x[r], threshold));
    }
  }
  unsigned result = 0;
#pragma unroll
  for (int r = 0; r < kPriorsPerGroup; ++r) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const unsigned group_lanes = lanes[r] >> (g * kGroup) & (kFullMask >> (kWarpSize - kGroup));
      result |= (group_lanes != 0 ? 1u : 0u) << (g * kPriorsPerGroup + r);
    }
  }
  return result;
}

// The same for up to kPriorsPerGroup priors with any number of classes.
template <typename In, typename T>
__device__ __forceinline__ unsigned long_rows_may_have_candidate(const In* logits, int count, int classes,
                                                                 const Filter<T>& filter) {
  unsigned result = 0;
  for (int r = 0; r < count; ++r) {
    const In* row = logits + static_cast<int64_t>(r) * classes;
    T max = -T(INFINITY);
#pragma unroll 4
    for (int c = 1 + static_cast<int>(threadIdx.x) % kWarpSize; c < classes; c += kWarpSize)
      max = greater(static_cast<T>(widen(row[c])), max);
    result |= (__any_sync(kFullMask, max > filter.logit_bound(widen(row[0]))) != 0 ? 1u : 0u) << r;
  }
  return result;
}

}  // namespace
}  // namespace ssd_ops
