// Sums over the threads of a block, in a fixed order, so that equal inputs give equal bits. Blocks are one-dimensional
// and of whole warps, and all of their threads call these; `partial` is shared memory for one T of each warp.
#pragma once

#include "cuda/common/launch.cuh"

namespace ssd_ops {

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int step = kWarpSize / 2; step > 0; step /= 2) value += __shfl_xor_sync(kFullMask, value, step);
  return value;
}

// The sum over all threads.
template <typename T>
__device__ __forceinline__ T block_sum(T value, T* partial) {
  const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
  value = warp_sum(value);
  if (lane == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  const T sum = warp_sum(lane < warps ? partial[lane] : T(0));
  __syncthreads();  // `partial` may be used again
  return sum;
}

// The sum over the threads before this one.
template <typename T>
__device__ __forceinline__ T block_sum_before(T value, T* partial) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  T sum = value;  // over this lane and those before
#pragma unroll
  for (int step = 1; step < kWarpSize; step *= 2) {
    const T other = __shfl_up_sync(kFullMask, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == kWarpSize - 1) partial[warp] = sum;
  __syncthreads();
  const T earlier = warp_sum(lane < warp ? partial[lane] : T(0));
  __syncthreads();
  return earlier + sum - value;
}

}  // namespace ssd_ops
