// Writes the boxes in the order of the cells of a grid. The plan is in chunk.cuh.
#pragma once

#include "cuda/nms/cell_order.cuh"
#include "cuda/nms/chunk.cuh"
#include "cuda/nms/sort_keys.cuh"

namespace ssd_ops {
namespace {

// The bounds of the centers of a sample of the boxes, one per thread of the block: which cell a box is in affects the
// time only.
template <typename T>
__device__ Box<T> sample_bounds(const NmsInputs& in) {
  __shared__ Box<T> bounds_by_warp[kChunkWarps];
  const int lane = threadIdx.x % kWarpSize;
  const Box<T> center = center_of(load_box_as<T>(in.box_type, in.boxes, threadIdx.x * in.num_boxes / kChunkThreads));
  const Box<T> bounds = warp_bounds(enclose(empty_bounds<T>(), center));
  if (lane == 0) bounds_by_warp[threadIdx.x / kWarpSize] = bounds;
  __syncthreads();
  return warp_bounds(bounds_by_warp[lane]);
}

// Replaces the counts of the cells by their exclusive prefix sum. All threads of the block call it.
__device__ inline void sum_counts(unsigned (&counts)[kNumCells]) {
  constexpr int kPerThread = kNumCells / kChunkThreads;
  unsigned* const own = counts + threadIdx.x * kPerThread;
  unsigned values[kPerThread], sum = 0;
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    values[k] = own[k];
    sum += values[k];
  }
  unsigned total, offset = block_exclusive_sum(sum, &total);
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    own[k] = offset;
    offset += values[k];
  }
}

// float64 has the order of every other dtype, so keys of 64 bits serve all of them.
__device__ __forceinline__ uint64_t load_wide_key(const NmsInputs& in, int64_t i) {
  return in.score_type == Dtype::f64 ? load_key<uint64_t>(in, i) : load_key<uint32_t>(in, i);
}

template <typename T>
__global__ void __launch_bounds__(kChunkThreads, 1) sort_chunk_kernel(NmsInputs in, Chunk<T> chunk) {
  constexpr int kPerThread = static_cast<int>(kMaxChunk) / kChunkThreads, kIndexBits = 16;
  __shared__ unsigned offsets[kNumCells];
  wait_for_previous_kernel();
  static_assert(kMaxChunk <= 1 << kIndexBits && kNumCells <= 1 << kIndexBits, "cell and position share 32 bits");
  const int thread = static_cast<int>(threadIdx.x);
  for (int c = thread; c < kNumCells; c += kChunkThreads) offsets[c] = 0;
  const Box<T> center_bounds = sample_bounds<T>(in);  // its barrier also follows the zeros of `offsets`
  unsigned positions[kPerThread];                     // cell, and position in the cell
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    if (i >= chunk.count) continue;
    const unsigned cell = cell_of(load_box_as<T>(in.box_type, in.boxes, i), center_bounds);
    positions[k] = cell << kIndexBits | atomicAdd(&offsets[cell], 1u);
  }
  __syncthreads();
  sum_counts(offsets);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    if (i >= chunk.count) continue;
    const unsigned to = offsets[positions[k] >> kIndexBits] + (positions[k] & ((1u << kIndexBits) - 1));
    chunk.boxes[to] = load_box_as<T>(in.box_type, in.boxes, i);
    chunk.keys[to] = load_wide_key(in, i);
    chunk.indices[to] = static_cast<unsigned>(i);
  }
}

}  // namespace
}  // namespace ssd_ops
