// The order of not too many boxes: a box's rank is the number of boxes that stand before it, counted.
//
// Plan: a block ranks kWarpSize boxes, a lane has one of them and each warp counts in a share of all scores, of which
// it holds kStaged at a time in shared memory as numbers that rise where scores fall. Of equals the lower index stands
// before, so all of a stretch below the block's boxes count if they are not above, and all beyond if they are below:
// one comparison a pair. Then the box goes to the place of its rank.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/nms/workspace.cuh"
#include "cuda/select/candidates.cuh"

namespace ssd_ops {
namespace {

constexpr int kStaged = 128;  // of a warp

// Rises where scores fall; NaN stands before all others. The last of all numbers is no score's.
__device__ __forceinline__ unsigned falling_number(float score) {
  return static_cast<unsigned>(make_candidate_or_first(score, 0u) >> 32);
}
__device__ __forceinline__ unsigned long long falling_number(double score) {
  return make_candidate_or_first(score, 0u).key;
}

// What the kernel reads.
template <typename Score>
struct Unsorted {
  const Score* scores;     // [n]
  const int64_t* classes;  // [n] or null
  const void* boxes;       // [n, 4]
  Dtype type;              // of boxes
  int64_t n;
};

template <typename Score, typename T>
__global__ void __launch_bounds__(kThreads)
    rank_kernel(Unsorted<Score> all, NmsWork<T> work, int64_t* order, int64_t* keep, int64_t* progress) {
  using Number = decltype(falling_number(compute_t<Score>()));
  __shared__ __align__(16) Number staged[kWarps][kStaged];
  __shared__ int before[kWarpSize];
  await_previous();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, n = static_cast<int>(all.n);
  const int begin = static_cast<int>(blockIdx.x) * kWarpSize, index = begin + lane;
  const Number mine = index < n ? falling_number(widen(all.scores[index])) : 0;
  if (warp == 0) before[lane] = 0;
  int count = 0;
  for (int first = warp * kStaged; first < n; first += kWarps * kStaged) {
    __syncwarp();  // all have read what is replaced here
#pragma unroll
    for (int k = 0; k < kStaged / kWarpSize; ++k) {
      const int i = first + k * kWarpSize + lane;
      staged[warp][k * kWarpSize + lane] = i < n ? falling_number(widen(all.scores[i])) : ~Number(0);
    }
    __syncwarp();
    if (first + kStaged <= begin || first >= begin + kWarpSize) {
      const Number bound = first < begin ? mine + 1 : mine;
#pragma unroll 16
      for (int k = 0; k < kStaged; ++k)
        if (staged[warp][k] < bound) ++count;
    } else {
      for (int k = 0; k < kStaged; ++k) count += staged[warp][k] < mine + (first + k < index ? 1 : 0) ? 1 : 0;
    }
  }
  __syncthreads();
  atomicAdd(&before[lane], count);
  __syncthreads();
  if (warp != 0 || index >= n) return;
  const int rank = before[lane];
  order[rank] = index;
  keep[index] = 0;  // the caller may show the whole array
  work.boxes[rank] = load_box_as<T>(all.type, all.boxes, index);
  if (all.classes != nullptr) work.classes[rank] = all.classes[index];
  begin_tiles(work, index, all.n, progress);
}

}  // namespace
}  // namespace ssd_ops
