// Appending to the candidates of an image from many threads, and leaving out those that cannot matter.
#pragma once

#include "cuda/select/candidates.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {

// The grid of a kernel that appends, for so many shares of each image: along x are images, so that blocks that run at
// the same time have different ones and the bound of each is soon known; along y shares.
inline dim3 collect_grid(const CandidateLists& lists, int64_t shares) {
  const int64_t most = lists.second ? 512 : 1 << 20;  // the second round mostly has nothing to do
  const unsigned images = grid_blocks(lists.images, 1, most);
  const int64_t each = most / images;
  return dim3(images, grid_blocks(shares, 1, each < kMaxGridYZ ? each : kMaxGridYZ));
}

// The least score that is still worth appending; it rises while candidates come in.
template <typename T>
__device__ inline T raised_floor(const CandidateLists& lists, int64_t slot, T floor) {
  const unsigned bound = lists.bins != nullptr ? __ldcg(&lists.bounds[slot]) : kNoBound;
  if (bound == kNoBound) return floor;
  const T lowest = lowest_score(bound, T());
  return lowest > floor ? lowest : floor;
}

// The place of the first of `count` candidates that the warp is about to add to a list, whose number is `slot`: one
// atomic for all of them. All lanes of a warp call it, with the same list and count.
__device__ inline int64_t reserve(const CandidateLists& lists, int64_t slot, int count) {
  unsigned place = 0;
  if (threadIdx.x % kWarpSize == 0) place = atomicAdd(&lists.counts[slot], static_cast<unsigned>(count));
  return __shfl_sync(kFullMask, place, 0);
}

// Adds the score of each of these lanes, from `place` on.
template <typename T>
__device__ inline void add(const CandidateLists& lists, int64_t slot, int64_t place, unsigned lanes, T score,
                           unsigned index) {
  using C = candidate_t<T>;
  const unsigned lane = threadIdx.x % kWarpSize;
  place += __popc(lanes & ((1u << lane) - 1));
  if ((lanes >> lane & 1) == 0 || place >= lists.capacity) return;
  const C item = make_candidate(score, index);
  static_cast<C*>(lists.items)[slot * lists.capacity + place] = item;
  if (lists.bins == nullptr) return;
  const unsigned first = head<C>(number(item)),
                 part = ((first > lists.low ? first : lists.low) - lists.low) >> lists.shift;
  atomicAdd(&lists.bins[slot * kBoundParts + (part < kBoundParts ? part : kBoundParts - 1)], 1u);
}

// Draws the bound of an image tighter when another kEnough candidates have come: `count` were added at `place`. All
// lanes of a warp call it. What other warps are still counting is missing, so the bound leaves kEnough at least.
__device__ inline void tighten(const CandidateLists& lists, int64_t slot, int64_t place, int count) {
  constexpr int kEach = kBoundParts / kWarpSize;
  if (lists.bins == nullptr || place / kEnough == (place + count) / kEnough) return;
  const unsigned lane = threadIdx.x % kWarpSize;
  const auto* bins = reinterpret_cast<const uint4*>(lists.bins + slot * kBoundParts) + lane * (kEach / 4);
  unsigned counts[kEach], sum = 0;
#pragma unroll
  for (int k = 0; k < kEach / 4; ++k) {
    const uint4 four = __ldcg(&bins[k]);
    counts[4 * k] = four.x;
    counts[4 * k + 1] = four.y;
    counts[4 * k + 2] = four.z;
    counts[4 * k + 3] = four.w;
    sum += four.x + four.y + four.z + four.w;
  }
  unsigned before = sum;  // over this lane and those before
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const unsigned other = __shfl_up_sync(kFullMask, before, step);
    if (lane >= static_cast<unsigned>(step)) before += other;
  }
  before -= sum;
  if (before >= kEnough || before + sum < kEnough) return;
  unsigned part = lane * kEach;
#pragma unroll
  for (int k = 0; k < kEach; ++k) {
    before += counts[k];
    if (before < kEnough) ++part;
  }
  // What lies beyond the range counts to the last part; heads from 0xff800000 on may be those of NaN.
  const unsigned long long bound = lists.low + (static_cast<unsigned long long>(part + 1) << lists.shift) - 1;
  if (part < kBoundParts - 1 && bound < 0xff800000u) atomicMin(&lists.bounds[slot], static_cast<unsigned>(bound));
}

// All of that for the lanes for which `adds` holds. All lanes of a warp call it, with the same list.
template <typename T>
__device__ inline void append(const CandidateLists& lists, int64_t slot, bool adds, T score, unsigned index) {
  const unsigned lanes = __ballot_sync(kFullMask, adds);
  if (lanes == 0) return;
  const int64_t place = reserve(lists, slot, __popc(lanes));
  add(lists, slot, place, lanes, score, index);
  tighten(lists, slot, place, __popc(lanes));
}

}  // namespace ssd_ops
