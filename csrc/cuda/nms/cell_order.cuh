// Boxes in the order of the cells of a grid, for many of them: what lies together is compared together.
//
// Plan: a block leaves the range of its boxes' centers (sort_boxes_kernel), range_kernel makes one of all. count_kernel
// counts the boxes of each cell and its last block adds up; place_kernel writes each box behind those before it. In
// which order the boxes of a cell stand is left to chance, and no result depends on it.
#pragma once

#include "cuda/common/block.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kSide = 64, kCells = kSide * kSide;  // of the grid

template <typename T>
__device__ Box<T> grown(const Box<T>& around, const Box<T>& by) {  // NaN of `by` widens nothing
  return {lesser(by.x1, around.x1), lesser(by.y1, around.y1), greater(by.x2, around.x2), greater(by.y2, around.y2)};
}

// The box around those of the block's threads for which `counts` holds. All threads of the block call it.
template <typename T>
__device__ Box<T> box_around(bool counts, const Box<T>& box) {
  __shared__ Box<T> of_warp[kThreads / kWarpSize];
  Box<T> around{T(INFINITY), T(INFINITY), -T(INFINITY), -T(INFINITY)};
  if (counts) around = grown(around, box);
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    around =
        grown(around, Box<T>{__shfl_xor_sync(kFullMask, around.x1, step), __shfl_xor_sync(kFullMask, around.y1, step),
                             __shfl_xor_sync(kFullMask, around.x2, step), __shfl_xor_sync(kFullMask, around.y2, step)});
  }
  __syncthreads();  // all have read what the last call left
  if (threadIdx.x % kWarpSize == 0) of_warp[threadIdx.x / kWarpSize] = around;
  __syncthreads();
  for (int w = 0; w < kThreads / kWarpSize; ++w) around = grown(around, of_warp[w]);
  return around;
}

// The center as a box; NaN for what is not finite, so that it widens no range.
template <typename T>
__device__ Box<T> center_of(const Box<T>& box) {
  T x = (box.x1 + box.x2) / T(2), y = (box.y1 + box.y2) / T(2);
  if (x - x != T(0)) x = T(NAN);
  if (y - y != T(0)) y = T(NAN);
  return {x, y, x, y};
}

// A coordinate's place in the grid; NaN and what lies outside go to an edge.
template <typename T>
__device__ unsigned place_in(T x, T low, T high) {
  const T place = (x - low) / (high - low) * T(kSide);
  return place > T(0) ? (place < T(kSide) ? static_cast<unsigned>(place) : kSide - 1) : 0;
}

// Cells are numbered so that near ones have near numbers: the bits of column and row take turns.
template <typename T>
__device__ unsigned cell_of(const Box<T>& box, const Box<T>& range) {
  const Box<T> center = center_of(box);
  const unsigned column = place_in(center.x1, range.x1, range.x2), row = place_in(center.y1, range.y1, range.y2);
  unsigned cell = 0;
  for (unsigned bit = 1; bit < kSide; bit *= 2) cell |= (column & bit) * bit | (row & bit) * bit * 2;
  return cell;
}

// Joins the ranges of `blocks` blocks, and clears the counts.
template <typename T>
__global__ void __launch_bounds__(kThreads) range_kernel(NmsWork<T> work, int blocks) {
  await_previous();
  Box<T> range{T(INFINITY), T(INFINITY), -T(INFINITY), -T(INFINITY)};
  for (int b = threadIdx.x; b < blocks; b += kThreads) range = grown(range, work.ranges[b]);
  range = box_around(true, range);
  if (threadIdx.x == 0) work.ranges[0] = range;
  for (int c = threadIdx.x; c < kCells; c += kThreads) work.cells[c] = 0;
}

// Leaves in cells[c] how many boxes stand in the cells before c.
template <typename T>
__global__ void __launch_bounds__(kThreads) count_kernel(int64_t n, NmsWork<T> work) {
  await_previous();
  const Box<T> range = work.ranges[0];
  for (int64_t r = global_thread(); r < n; r += global_threads())
    atomicAdd(&work.cells[cell_of(work.boxes[r], range)], 1u);
  if (!is_last_block(&work.state->ticket)) return;
  int before = 0;
  for (int first = 0; first < kCells; first += kThreads) {
    int total;
    const int here = static_cast<int>(work.cells[first + threadIdx.x]);
    work.cells[first + threadIdx.x] = static_cast<unsigned>(before + block_count_before(here, &total));
    before += total;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) place_kernel(int64_t n, NmsWork<T> work) {
  await_previous();
  const Box<T> range = work.ranges[0];
  for (int64_t r = global_thread(); r < n; r += global_threads()) {
    const Box<T> box = work.boxes[r];
    const unsigned place = atomicAdd(&work.cells[cell_of(box, range)], 1u);
    work.cell_boxes[place] = box;
    work.ranks[place] = static_cast<unsigned>(r);
  }
}

template <typename T>
cudaError_t sort_by_cell(int64_t n, const NmsWork<T>& work, unsigned blocks, cudaStream_t stream) {
  cudaError_t status = launch_next(range_kernel<T>, 1, kThreads, 0, stream, work, static_cast<int>(blocks));
  if (status == cudaSuccess) status = launch_next(count_kernel<T>, blocks, kThreads, 0, stream, n, work);
  if (status == cudaSuccess) status = launch_next(place_kernel<T>, blocks, kThreads, 0, stream, n, work);
  return status;
}

}  // namespace
}  // namespace ssd_ops
