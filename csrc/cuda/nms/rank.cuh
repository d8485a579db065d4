// Rank sort of up to kMaxRanked boxes by score, in O(n^2): the rank of a box is the number of boxes that precede it.
//
// Plan: a block ranks kWarpSize boxes, one per lane. Each warp compares them with its part of all scores, staging
// kStaged sort keys at a time in shared memory, and counts those that precede. Ties go to the lower index: equal keys
// of boxes before the block's own are counted, those of boxes after them are not, so a pair takes one comparison. Then
// each box is written to the index of its rank.
#pragma once

#include "core/ordered_key.h"
#include "cuda/common/load.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kStaged = 128;  // keys of a warp in shared memory

template <typename Score>
struct UnsortedBoxes {
  const Score* scores;     // [n]
  const int64_t* classes;  // [n] or null
  const void* boxes;       // [n, 4]
  Dtype type;              // of boxes
  int64_t n;
};

// The rank among n boxes of box begin + lane, for the lanes of warp 0. key_of(i) is the sort key of a box. All threads
// of the block call it.
template <typename Key, typename KeyOf>
__device__ int rank_in_block(int begin, int n, KeyOf key_of) {
  __shared__ __align__(16) Key staged[kWarps][kStaged];
  __shared__ int ranks[kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, index = begin + lane;
  const Key key = index < n ? key_of(index) : 0;
  if (warp == 0) ranks[lane] = 0;
  int count = 0;
  for (int first = warp * kStaged; first < n; first += kWarps * kStaged) {
    __syncwarp();  // all lanes are done with the previous keys
#pragma unroll
    for (int k = 0; k < kStaged / kWarpSize; ++k) {
      const int i = first + k * kWarpSize + lane;
      // The highest key, which no score has, precedes nothing.
      staged[warp][k * kWarpSize + lane] = i < n ? key_of(i) : ~Key(0);
    }
    __syncwarp();
    if (first + kStaged <= begin || first >= begin + kWarpSize) {
      const Key bound = first < begin ? key + 1 : key;
#pragma unroll 16
      for (int k = 0; k < kStaged; ++k)
        if (staged[warp][k] < bound) ++count;
    } else {
      for (int k = 0; k < kStaged; ++k) count += staged[warp][k] < key + (first + k < index ? 1 : 0) ? 1 : 0;
    }
  }
  __syncthreads();
  atomicAdd(&ranks[lane], count);
  __syncthreads();
  return ranks[lane];
}

template <typename Score, typename T>
__global__ void __launch_bounds__(kThreads)
    rank_kernel(UnsortedBoxes<Score> in, NmsWorkspace<T> work, int64_t* order, int64_t* keep) {
  using Key = sort_key_t<compute_t<Score>>;
  wait_for_previous_kernel();
  const int n = static_cast<int>(in.n), begin = static_cast<int>(blockIdx.x) * kWarpSize;
  const int rank = rank_in_block<Key>(begin, n, [&](int i) { return descending_key_nan_first(widen(in.scores[i])); });
  const int index = begin + static_cast<int>(threadIdx.x);
  if (threadIdx.x >= kWarpSize || index >= n) return;
  order[rank] = index;
  keep[index] = 0;  // the result may be a view of this array, and saving a view saves all of it
  work.boxes[rank] = load_box_as<T>(in.type, in.boxes, index);
  if (in.classes != nullptr) work.classes[rank] = in.classes[index];
  initialize_tiles(work, index, in.n);
}

}  // namespace
}  // namespace ssd_ops
