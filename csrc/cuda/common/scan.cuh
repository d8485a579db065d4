// Prefix sums over the lanes of a warp and the threads of a block. Blocks are one-dimensional and of whole warps, and
// all of their threads call the block functions.
#pragma once

#include "cuda/common/reduce.cuh"

namespace ssd_ops {

// The sum over this lane and those before it.
template <typename T>
__device__ __forceinline__ T warp_inclusive_sum(T value) {
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const T other = __shfl_up_sync(kFullMask, value, step);
    if (lane >= step) value += other;
  }
  return value;
}

// The number of set bits below this lane's.
__device__ __forceinline__ int bits_below_lane(unsigned bits) {
  return __popc(bits & ((1u << (threadIdx.x % kWarpSize)) - 1));
}

namespace {  // so that the emulator's sanitized build can put red zones around shared memory

// The sum over the warps before this one, each with a sum of its own; `*total` is the sum over all.
template <typename T>
__device__ __forceinline__ T sum_of_previous_warps(T warp_total, T* total) {
  __shared__ T warp_totals[kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  if (lane == kWarpSize - 1) warp_totals[warp] = warp_total;
  __syncthreads();
  const T warp_total_of_lane = lane < warps ? warp_totals[lane] : T(0);
  const T previous = warp_sum(lane < warp ? warp_total_of_lane : T(0));
  *total = warp_sum(warp_total_of_lane);
  __syncthreads();  // the array may be written again
  return previous;
}

// The sum over the threads before this one; `*total` is the sum over all.
template <typename T>
__device__ __forceinline__ T block_exclusive_sum(T value, T* total) {
  const T inclusive = warp_inclusive_sum(value);
  return sum_of_previous_warps(inclusive, total) + inclusive - value;
}

// The number of threads before this one whose flag is set; `*total` counts all of them.
__device__ __forceinline__ int block_exclusive_count(bool flag, int* total) {
  const unsigned flags = __ballot_sync(kFullMask, flag);
  return sum_of_previous_warps(__popc(flags), total) + bits_below_lane(flags);
}

}  // namespace
}  // namespace ssd_ops
