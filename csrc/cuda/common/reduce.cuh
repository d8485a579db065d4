// Reductions over the lanes of a warp and the threads of a block, in a fixed order, so that equal inputs give equal
// bits. Blocks are one-dimensional and of whole warps, and all of their threads call the block functions.
//
// Why not CUB: the tests run every kernel on a CPU emulator (tests/emu), which compiles the kernel sources with g++;
// CUB is full of inline PTX and cannot be compiled that way. The few primitives that the kernels need are in this
// folder.
#pragma once

#include <type_traits>

#include "core/bounds.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {

// The value of the lane whose number differs from the own one by the bits of `step`. A struct that is reduced has an
// overload of its own.
template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int step) {
  return __shfl_xor_sync(kFullMask, value, step);
}
template <typename T>
__device__ __forceinline__ Box<T> shuffle_xor(const Box<T>& box, int step) {
  return {shuffle_xor(box.x1, step), shuffle_xor(box.y1, step), shuffle_xor(box.x2, step), shuffle_xor(box.y2, step)};
}

// Butterfly all-reduce over each group of kGroup lanes: combine(own, other) in log2(kGroup) steps. All lanes get the
// result.
template <int kGroup = kWarpSize, typename T, typename Combine>
__device__ __forceinline__ T warp_reduce(T value, Combine combine) {
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) value = combine(value, shuffle_xor(value, step));
  return value;
}

// The same over groups of `lanes` lanes, a power of two.
template <typename T, typename Combine>
__device__ __forceinline__ T reduce_lanes(T value, int lanes, Combine combine) {
#pragma unroll 1
  for (int step = lanes / 2; step > 0; step /= 2) value = combine(value, shuffle_xor(value, step));
  return value;
}

template <int kGroup = kWarpSize, typename T>
__device__ __forceinline__ T warp_sum(T value) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  if constexpr (kGroup == kWarpSize && std::is_same_v<T, unsigned>) return __reduce_add_sync(kFullMask, value);
#endif
  return warp_reduce<kGroup>(value, [](T own, T other) { return own + other; });
}

// One step of a butterfly reduce-scatter: of 2 * half values, each lane keeps the half of its side (the upper half if
// bit `step` of the lane is set), combined with the same values of its partner lane.
template <int half, int kValues, typename T, typename Combine>
__device__ __forceinline__ void exchange_halves(T (&values)[kValues], int step, Combine combine) {
  const bool upper = (threadIdx.x & step) != 0;
#pragma unroll
  for (int k = 0; k < half; ++k) {
    const T kept = upper ? values[k + half] : values[k], sent = upper ? values[k] : values[k + half];
    values[k] = combine(kept, shuffle_xor(sent, step));
  }
}

// Butterfly reduce-scatter over the warp: a lane enters with partial values of 8 rows and leaves with the reduced value
// of one row, number lane / 4. While several rows are left, each step exchanges half of them, so that reducing 8 rows
// takes hardly more shuffles than one.
template <typename T, typename Combine>
__device__ __forceinline__ T reduce_scatter(T (&values)[8], Combine combine) {
  exchange_halves<4>(values, kWarpSize / 2, combine);
  exchange_halves<2>(values, kWarpSize / 4, combine);
  exchange_halves<1>(values, kWarpSize / 8, combine);
  return warp_reduce<kWarpSize / 8>(values[0], combine);
}

// The maximum over the warp.
__device__ __forceinline__ unsigned warp_max(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return warp_reduce(value, [](unsigned own, unsigned other) { return other > own ? other : own; });
#else
  return __reduce_max_sync(kFullMask, value);
#endif
}

// The bounds of the bounds of all lanes.
template <typename T>
__device__ __forceinline__ Box<T> warp_bounds(const Box<T>& bounds) {
  return warp_reduce(bounds, [](const Box<T>& own, const Box<T>& other) { return enclose(own, other); });
}

namespace {  // so that the emulator's sanitized build can put red zones around shared memory

// Replaces each value by its sum over all threads of the block.
template <int kValues, typename T>
__device__ __forceinline__ void block_sums(T (&values)[kValues]) {
  __shared__ T warp_sums[kValues][kWarpSize];
  const int lane = threadIdx.x % kWarpSize, warps = blockDim.x / kWarpSize;
#pragma unroll
  for (int k = 0; k < kValues; ++k) {
    const T sum = warp_sum(values[k]);
    if (lane == 0) warp_sums[k][threadIdx.x / kWarpSize] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kValues; ++k) values[k] = warp_sum(lane < warps ? warp_sums[k][lane] : T(0));
  __syncthreads();  // the array may be written again
}

// The sum over all threads of the block.
template <typename T>
__device__ __forceinline__ T block_sum(T value) {
  T values[1] = {value};
  block_sums(values);
  return values[0];
}

}  // namespace
}  // namespace ssd_ops
