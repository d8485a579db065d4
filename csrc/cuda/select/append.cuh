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

// The blocks of a kernel that appends, with one block for each tile of each image: block b has tile b / images of image
// b % images, for the same reason.
inline unsigned tile_blocks(const CandidateLists& lists, int64_t tiles_per_image) {
  return grid_blocks(lists.num_images * tiles_per_image, 1);
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

// Writes a candidate at `offset`, if the list has space for it, and counts it in the histogram.
template <typename C>
__device__ inline void write_candidate(const CandidateLists& lists, int64_t local_image, int64_t offset,
                                       const C& item) {
  if (offset >= lists.capacity) return;
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

// Candidates of a warp in shared memory, which are appended to the list of their image together: one atomic for all.
template <typename T>
struct StagedCandidates {
  using C = candidate_t<T>;
  static constexpr int kCapacity = 256, kBytes = kCapacity * static_cast<int>(sizeof(C));

  C* items;  // [kCapacity] in shared memory
  int count = 0;

  // Adds up to kCount candidates of each lane, those whose `adds` is set. All lanes of the warp call it.
  template <int kCount>
  __device__ __forceinline__ void add(const bool (&adds)[kCount], const T (&scores)[kCount],
                                      const unsigned (&indices)[kCount]) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const unsigned lanes = __ballot_sync(kFullMask, adds[k]);
      if (adds[k]) items[count + bits_below_lane(lanes)] = make_candidate(scores[k], indices[k]);
      count += __popc(lanes);
    }
  }

  // Appends all to the list of the image and tightens its cutoff. All lanes of the warp call it.
  __device__ void flush(const CandidateLists& lists, int64_t local_image) {
    if (count == 0) return;
    __syncwarp();
    const int64_t begin = reserve(lists, local_image, count);
    for (int first = 0; first < count; first += kWarpSize) {
      const int i = first + static_cast<int>(threadIdx.x) % kWarpSize;
      if (i < count) write_candidate(lists, local_image, begin + i, items[i]);
    }
    tighten_cutoff(lists, local_image, begin, count);
    count = 0;
    __syncwarp();
  }
};

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
    if (appends[k])
      write_candidate(lists, local_image, offset + bits_below_lane(lanes[k]), make_candidate(scores[k], indices[k]));
    offset += __popc(lanes[k]);
  }
  tighten_cutoff(lists, local_image, begin, count);
}

}  // namespace ssd_ops
