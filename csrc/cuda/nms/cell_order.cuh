// Many boxes in the order of the cells of a uniform grid, so that boxes that are compared together are near each other.
//
// Plan: each block of gather_boxes_kernel writes the bounds of its boxes' centers, reduce_center_bounds_kernel reduces
// them to the bounds of all. count_kernel counts the boxes of each cell, and its last block makes offsets of the
// counts; scatter_kernel writes each box to its cell. The order of boxes within a cell depends on timing; no result
// depends on it.
#pragma once

#include "cuda/common/last_block.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

// The bounds of the boxes of those threads of the block whose `flag` is set. All threads of the block call it.
template <typename T>
__device__ Box<T> block_bounds(bool flag, const Box<T>& box) {
  __shared__ Box<T> bounds_by_warp[kThreads / kWarpSize];
  Box<T> bounds = empty_bounds<T>();
  if (flag) bounds = enclose(bounds, box);
  bounds = warp_bounds(bounds);
  __syncthreads();  // all threads have read the results of the previous call
  if (threadIdx.x % kWarpSize == 0) bounds_by_warp[threadIdx.x / kWarpSize] = bounds;
  __syncthreads();
  for (int w = 0; w < kThreads / kWarpSize; ++w) bounds = enclose(bounds, bounds_by_warp[w]);
  return bounds;
}

// The center as a box; coordinates that are not finite become NaN, so that they extend no bounds.
template <typename T>
__device__ Box<T> center_of(const Box<T>& box) {
  T x = (box.x1 + box.x2) / T(2), y = (box.y1 + box.y2) / T(2);
  if (x - x != T(0)) x = T(NAN);
  if (y - y != T(0)) y = T(NAN);
  return {x, y, x, y};
}

// The column or row of a coordinate; NaN and coordinates out of range are clamped.
template <typename T>
__device__ unsigned grid_index(T x, T low, T high) {
  const T index = (x - low) / (high - low) * T(kGridSide);
  return index > T(0) ? (index < T(kGridSide) ? static_cast<unsigned>(index) : kGridSide - 1) : 0;
}

// Morton order: the bits of column and row are interleaved, so that near cells have near indices.
template <typename T>
__device__ unsigned cell_of(const Box<T>& box, const Box<T>& center_bounds) {
  const Box<T> center = center_of(box);
  const unsigned column = grid_index(center.x1, center_bounds.x1, center_bounds.x2),
                 row = grid_index(center.y1, center_bounds.y1, center_bounds.y2);
  unsigned cell = 0;
  for (unsigned bit = 1; bit < kGridSide; bit *= 2) cell |= (column & bit) * bit | (row & bit) * bit * 2;
  return cell;
}

// Reduces the bounds of `blocks` blocks to center_bounds[0], and clears the counts of the cells.
template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_center_bounds_kernel(NmsWorkspace<T> work, int blocks) {
  wait_for_previous_kernel();
  Box<T> center_bounds = empty_bounds<T>();
  for (int b = threadIdx.x; b < blocks; b += kThreads) center_bounds = enclose(center_bounds, work.center_bounds[b]);
  center_bounds = block_bounds(true, center_bounds);
  if (threadIdx.x == 0) work.center_bounds[0] = center_bounds;
  for (int c = threadIdx.x; c < kNumCells; c += kThreads) work.cell_offsets[c] = 0;
}

// Counts the boxes of each cell; the last block replaces the counts by their exclusive prefix sum.
template <typename T>
__global__ void __launch_bounds__(kThreads) count_kernel(int64_t n, NmsWorkspace<T> work) {
  wait_for_previous_kernel();
  const Box<T> center_bounds = work.center_bounds[0];
  for (int64_t rank = global_thread_index(); rank < n; rank += num_global_threads())
    atomicAdd(&work.cell_offsets[cell_of(work.boxes[rank], center_bounds)], 1u);
  if (!is_last_block(&work.state->ticket)) return;
  int offset = 0;
  for (int first = 0; first < kNumCells; first += kThreads) {
    int total;
    const int count = static_cast<int>(work.cell_offsets[first + threadIdx.x]);
    work.cell_offsets[first + threadIdx.x] = static_cast<unsigned>(offset + block_exclusive_sum(count, &total));
    offset += total;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) scatter_kernel(int64_t n, NmsWorkspace<T> work) {
  wait_for_previous_kernel();
  const Box<T> center_bounds = work.center_bounds[0];
  for (int64_t rank = global_thread_index(); rank < n; rank += num_global_threads()) {
    const Box<T> box = work.boxes[rank];
    const unsigned index = atomicAdd(&work.cell_offsets[cell_of(box, center_bounds)], 1u);
    work.cell_boxes[index] = box;
    work.cell_ranks[index] = static_cast<unsigned>(rank);
  }
}

template <typename T>
cudaError_t sort_by_cell(int64_t n, const NmsWorkspace<T>& work, unsigned blocks, cudaStream_t stream) {
  cudaError_t status =
      launch_dependent(reduce_center_bounds_kernel<T>, 1, kThreads, 0, stream, work, static_cast<int>(blocks));
  if (status == cudaSuccess) status = launch_dependent(count_kernel<T>, blocks, kThreads, 0, stream, n, work);
  if (status == cudaSuccess) status = launch_dependent(scatter_kernel<T>, blocks, kThreads, 0, stream, n, work);
  return status;
}

}  // namespace
}  // namespace ssd_ops
