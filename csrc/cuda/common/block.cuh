// What the blocks of several kernels do together: sums over a block, and the election of the last block of a grid.
#pragma once

#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

// Whether this block is the last of so many to arrive; it then sees all that the others have written. `ticket` is 0
// before the launch and after it. All threads of the block call it.
__device__ inline bool is_last_block(unsigned* ticket, unsigned blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1u) == blocks - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// Likewise of all blocks of the grid.
__device__ inline bool is_last_block(unsigned* ticket) { return is_last_block(ticket, gridDim.x * gridDim.y); }

// The sum over the warps before this one; `*total` is that over all.
__device__ inline int sum_of_warps_before(const int* warp_sums, int* total) {
  int before = 0, all = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarpSize; ++w) {
    if (w == static_cast<int>(threadIdx.x) / kWarpSize) before = all;
    all += warp_sums[w];
  }
  __syncthreads();  // before they are written again
  *total = all;
  return before;
}

// The sum of `value` over the threads before this one; `*total` is that over all. One-dimensional blocks of whole
// warps. All threads of the block call it.
__device__ inline int block_count_before(int value, int* total) {
  __shared__ int warp_sums[kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  int sum = value;  // over this lane and those before
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int other = __shfl_up_sync(kFullMask, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == kWarpSize - 1) warp_sums[warp] = sum;
  __syncthreads();
  return sum_of_warps_before(warp_sums, total) + sum - value;
}

// Likewise where the values are 0 and 1.
__device__ inline int block_count_before(bool value, int* total) {
  __shared__ int warp_sums[kWarpSize];
  const unsigned lane = threadIdx.x % kWarpSize, lanes = __ballot_sync(kFullMask, value);
  if (lane == 0) warp_sums[threadIdx.x / kWarpSize] = __popc(lanes);
  __syncthreads();
  return sum_of_warps_before(warp_sums, total) + __popc(lanes & ((1u << lane) - 1));
}

}  // namespace
}  // namespace ssd_ops
