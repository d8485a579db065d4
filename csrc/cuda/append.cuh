// Appending to the candidates of an image from many threads.
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/select.h"

namespace ssd_ops {

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
  const unsigned lane = threadIdx.x % kWarpSize;
  place += __popc(lanes & ((1u << lane) - 1));
  if ((lanes >> lane & 1) != 0 && place < lists.capacity)
    static_cast<candidate_t<T>*>(lists.items)[slot * lists.capacity + place] = make_candidate(score, index);
}

// Both for the lanes for which `adds` holds. All lanes of a warp call it, with the same list.
template <typename T>
__device__ inline void append(const CandidateLists& lists, int64_t slot, bool adds, T score, unsigned index) {
  const unsigned lanes = __ballot_sync(kFullMask, adds);
  if (lanes != 0) add(lists, slot, reserve(lists, slot, __popc(lanes)), lanes, score, index);
}

}  // namespace ssd_ops
