// Appends candidates to the lists of images from many threads, and prunes low scores.
#pragma once

#include "cuda/common/scan.cuh"
#include "cuda/select/candidates.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {

// The high bits of the sort key of float -inf. Cutoffs of this value or above are not used, for their lowest_score()
// would be -inf or NaN. For double these bits represent -2^1017: lower scores are never pruned, which changes no
// result.
constexpr unsigned kHighBitsOfMinusInfinity = 0xff800000u;

// The grid of a kernel that appends: x is the image, so that blocks that run at the same time have different images and
// the cutoff of each is soon known; y has `blocks_per_image` blocks, or fewer, with a grid-stride loop.
inline dim3 collect_grid(const CandidateLists& lists, int64_t blocks_per_image) {
  constexpr int64_t max_blocks = 1 << 20;
  const unsigned images = grid_blocks(lists.num_images, 1, max_blocks);
  const int64_t max_per_image = max_blocks / images;
  return dim3(images, grid_blocks(blocks_per_image, 1, max_per_image < kMaxGridYZ ? max_per_image : kMaxGridYZ));
}

// The lowest score that is not pruned; it increases while candidates are appended.
template <typename T>
__device__ inline T current_threshold(const CandidateLists& lists, int64_t local_image, T score_threshold) {
  const unsigned cutoff = lists.histogram != nullptr ? __ldcg(&lists.cutoffs[local_image]) : kNoCutoff;
  if (cutoff == kNoCutoff) return score_threshold;
  const T lowest = lowest_score(cutoff, T());
  return lowest > score_threshold ? lowest : score_threshold;
}

// The offset in a list of the first of `count` candidates that the warp is about to append: one atomic for all of them.
// All lanes of a warp call it, with the same image and count.
__device__ inline int64_t reserve(const CandidateLists& lists, int64_t local_image, int count) {
  unsigned offset = 0;
  if (threadIdx.x % kWarpSize == 0) offset = atomicAdd(&lists.counts[local_image], static_cast<unsigned>(count));
  return __shfl_sync(kFullMask, offset, 0);
}

// Writes the candidates of the lanes in the mask `lanes` from `offset` on, and counts them in the histogram.
template <typename T>
__device__ inline void write_candidates(const CandidateLists& lists, int64_t local_image, int64_t offset,
                                        unsigned lanes, T score, unsigned index) {
  using C = candidate_t<T>;
  offset += bits_below_lane(lanes);
  if ((lanes >> (threadIdx.x % kWarpSize) & 1) == 0 || offset >= lists.capacity) return;
  const C item = make_candidate(score, index);
  static_cast<C*>(lists.items)[local_image * lists.capacity + offset] = item;
  if (lists.histogram == nullptr) return;
  const unsigned high = high_bits<C>(sort_key(item)),
                 bin = ((high > lists.low ? high : lists.low) - lists.low) >> lists.shift;
  atomicAdd(&lists.histogram[local_image * kHistogramBins + (bin < kHistogramBins ? bin : kHistogramBins - 1)], 1u);
}

// Tightens the cutoff of an image if the length of its list has crossed a multiple of kMinWithinCutoff; the warp has
// just appended `count` candidates at `offset`. All lanes of a warp call it. Other warps may have candidates in flight
// that the histogram does not count yet, so at least kMinWithinCutoff candidates are within the cutoff.
__device__ inline void tighten_cutoff(const CandidateLists& lists, int64_t local_image, int64_t offset, int count) {
  constexpr int kPerLane = kHistogramBins / kWarpSize;
  if (lists.histogram == nullptr || offset / kMinWithinCutoff == (offset + count) / kMinWithinCutoff) return;
  const unsigned lane = threadIdx.x % kWarpSize;
  const auto* bins =
      reinterpret_cast<const uint4*>(lists.histogram + local_image * kHistogramBins) + lane * (kPerLane / 4);
  unsigned counts[kPerLane], sum = 0;
#pragma unroll
  for (int k = 0; k < kPerLane / 4; ++k) {
    const uint4 four = __ldcg(&bins[k]);
    counts[4 * k] = four.x;
    counts[4 * k + 1] = four.y;
    counts[4 * k + 2] = four.z;
    counts[4 * k + 3] = four.w;
    sum += four.x + four.y + four.z + four.w;
  }
  unsigned before = warp_inclusive_sum(sum) - sum;  // in the bins of lower lanes
  if (before >= kMinWithinCutoff || before + sum < kMinWithinCutoff) return;
  unsigned bin = lane * kPerLane;  // the bin in which the sum reaches kMinWithinCutoff
#pragma unroll
  for (int k = 0; k < kPerLane; ++k) {
    before += counts[k];
    if (before < kMinWithinCutoff) ++bin;
  }
  // The last bin also counts everything beyond the range.
  const unsigned long long cutoff = lists.low + (static_cast<unsigned long long>(bin + 1) << lists.shift) - 1;
  if (bin < kHistogramBins - 1 && cutoff < kHighBitsOfMinusInfinity)
    atomicMin(&lists.cutoffs[local_image], static_cast<unsigned>(cutoff));
}

// Appends up to kCount candidates of each lane, those whose `appends` is set, and tightens the cutoff. All lanes of a
// warp call it, with the same image.
template <int kCount, typename T>
__device__ inline void append(const CandidateLists& lists, int64_t local_image, const bool (&appends)[kCount],
                              const T (&scores)[kCount], const unsigned (&indices)[kCount]) {
  unsigned lanes[kCount];
  int count = 0;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    lanes[k] = __ballot_sync(kFullMask, appends[k]);
    count += __popc(lanes[k]);
  }
  if (count == 0) return;
  const int64_t begin = reserve(lists, local_image, count);
  int64_t offset = begin;
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (lanes[k] != 0) write_candidates(lists, local_image, offset, lanes[k], scores[k], indices[k]);
    offset += __popc(lanes[k]);
  }
  tighten_cutoff(lists, local_image, begin, count);
}

}  // namespace ssd_ops
