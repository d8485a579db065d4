// Appending to the candidates of an image from many threads.
#pragma once

#include "cuda/candidates.cuh"
#include "cuda/select.h"

namespace ssd_ops {

// Appends the score of each lane for which `adds` holds, with one atomic for the warp. All lanes of a warp call it, with
// the same list, whose number is `slot`.
template <typename T>
__device__ inline void append(const CandidateLists& lists, int64_t slot, bool adds, T score, unsigned index) {
  const unsigned lanes = __ballot_sync(kFullMask, adds);
  if (lanes == 0) return;
  const int lane = threadIdx.x % kWarpSize, leader = __ffs(static_cast<int>(lanes)) - 1;
  unsigned base = 0;
  if (lane == leader) base = atomicAdd(&lists.counts[slot], static_cast<unsigned>(__popc(lanes)));
  base = __shfl_sync(kFullMask, base, leader);
  const int64_t place = static_cast<int64_t>(base) + __popc(lanes & ((1u << lane) - 1));
  if (adds && place < lists.capacity)
    static_cast<candidate_t<T>*>(lists.items)[slot * lists.capacity + place] = make_candidate(score, index);
}

}  // namespace ssd_ops
