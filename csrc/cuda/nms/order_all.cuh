// All boxes along a Hilbert curve, within each class if they have classes. The plan is in ranges.cuh.
//
// Plan: prepare_kernel, one block, takes the grid and the numbers of the classes from a sample. count_all_kernel counts
// the boxes of each cell: a block counts its own in shared memory and adds them with one atomic per cell, so that many
// boxes in one cell take no longer. In scatter_all_kernel each block sums the counts of all cells, and writes its
// boxes. The order of boxes within a cell depends on timing; no result depends on it.
#pragma once

#include "cuda/nms/ranges.cuh"

namespace ssd_ops {
namespace {

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1) prepare_kernel(NmsInputs in, Ranges<T> work) {
  __shared__ ClassNumbers numbers;
  wait_for_previous_kernel();
  const Grid grid(sample_bounds<float>(in));
  for (int c = static_cast<int>(threadIdx.x); c < kNumCells; c += kChunkThreads) work.cell_counts[c] = 0;
  if constexpr (has_classes) {
    number_classes(in, numbers);
    work.class_numbers->by_hash[threadIdx.x] = numbers.by_hash[threadIdx.x];
  }
  if (threadIdx.x != 0) return;
  if constexpr (has_classes) work.class_numbers->count = numbers.count;
  *work.grid = grid;
  *work.state = {0, kSmallRange, kSmallRange, 0, 0, 0, 0};
  *work.ticket = 0;
}

// Also sets the bits of all boxes.
template <bool has_classes, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1)
    count_all_kernel(NmsInputs in, const int64_t* order, Ranges<T> work) {
  __shared__ unsigned counts[kNumCells];
  wait_for_previous_kernel();
  for (int c = static_cast<int>(threadIdx.x); c < kNumCells; c += kChunkThreads) counts[c] = 0;
  __syncthreads();
  const int rank = static_cast<int>(blockIdx.x) * kChunkThreads + static_cast<int>(threadIdx.x);
  CellPosition position{0, 0};
  if (rank < work.n) {
    const int64_t i = order[rank];
    position.cell = work.grid->curve_cell_of(load_box_as<float>(in.box_type, in.boxes, i));
    if constexpr (has_classes) {
      const unsigned cells = kNumCells / work.class_numbers->count;
      position.cell = cell_of_class(position.cell, work.class_numbers->number_of(in.classes[i]), cells);
    }
    position.index = atomicAdd(&counts[position.cell], 1u);
    if (rank % kWarpSize == 0) {
      const int left = work.n - rank;
      work.active[rank / kWarpSize] = left < kWarpSize ? (1u << left) - 1 : kFullMask;
      work.suppressed[rank / kWarpSize] = work.kept[rank / kWarpSize] = 0;
    }
  }
  __syncthreads();
  for (int c = static_cast<int>(threadIdx.x); c < kNumCells; c += kChunkThreads)
    if (counts[c] != 0) counts[c] = atomicAdd(&work.cell_counts[c], counts[c]);
  __syncthreads();
  if (rank < work.n) work.positions[rank] = {position.cell, counts[position.cell] + position.index};
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1)
    scatter_all_kernel(NmsInputs in, const int64_t* order, Ranges<T> work) {
  __shared__ unsigned offsets[kNumCells];
  wait_for_previous_kernel();
  for (int c = static_cast<int>(threadIdx.x); c < kNumCells; c += kChunkThreads) offsets[c] = work.cell_counts[c];
  __syncthreads();
  sum_counts(offsets);
  __syncthreads();
  const int rank = static_cast<int>(blockIdx.x) * kChunkThreads + static_cast<int>(threadIdx.x);
  if (rank >= work.n) return;
  const CellPosition position = work.positions[rank];
  const int64_t i = order[rank];
  const unsigned to = offsets[position.cell] + position.index;
  work.boxes[to] = load_box_as<T>(in.box_type, in.boxes, i);
  work.ranks[to] = static_cast<unsigned>(rank);
  if constexpr (has_classes) {
    work.classes[to] = in.classes[i];
    work.numbers[to] = static_cast<uint16_t>(work.class_numbers->number_of(in.classes[i]));
  }
}

template <bool has_classes, typename T>
cudaError_t launch_order_all(const NmsInputs& in, const int64_t* order, const Ranges<T>& work, cudaStream_t stream) {
  const unsigned blocks = grid_blocks(in.num_boxes, kChunkThreads);
  cudaError_t status = launch(prepare_kernel<has_classes, T>, 1, kChunkThreads, 0, stream, in, work);
  if (status == cudaSuccess)
    status = launch_dependent(count_all_kernel<has_classes, T>, blocks, kChunkThreads, 0, stream, in, order, work);
  if (status == cudaSuccess)
    status = launch_dependent(scatter_all_kernel<has_classes, T>, blocks, kChunkThreads, 0, stream, in, order, work);
  return status;
}

}  // namespace
}  // namespace ssd_ops
