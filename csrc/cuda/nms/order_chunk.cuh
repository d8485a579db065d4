// Writes the boxes by class, and those of a class along a Hilbert curve: in place of sort_chunk.cuh. The plan is in
// chunk.cuh.
//
// Consecutive cells of a Hilbert curve are neighbors. Morton order has jumps: a group of boxes across the one in the
// middle extends over much of the image, is near all boxes, and its block of compare_near_kernel ends long after the
// others. For the same reason the curve is followed backward in every second class: it begins where the last one ended.
//
// Plan: order_chunk_kernel, one block, sorts the indices of the boxes in shared memory, and gather_chunk_kernel, many
// blocks, loads and writes the boxes in that order: one multiprocessor would take long for 40,000 scattered stores. A
// warp of it has a group of boxes, and writes their bounds, too.
#pragma once

#include "cuda/nms/sort_chunk.cuh"

namespace ssd_ops {
namespace {

// Numbers of the classes, from 0 to count - 1: those of a sample of the boxes, one per thread of the block. Classes
// with the same hash share a number, and one that the sample lacks has that of another. This affects the time only.
struct ClassNumbers {
  static constexpr int kHashBits = 10;

  unsigned by_hash[1 << kHashBits];  // exclusive prefix sum of the flags of the sampled hashes
  unsigned count;

  // Fibonacci hashing: consecutive classes get hashes that are far from each other.
  __device__ static unsigned hash(int64_t box_class) {
    return static_cast<unsigned>(static_cast<uint64_t>(box_class) * 0x9e3779b97f4a7c15u >> (64 - kHashBits));
  }
  __device__ unsigned number_of(int64_t box_class) const {
    const unsigned number = by_hash[hash(box_class)];
    return number < count ? number : count - 1;
  }
};

// All threads of the block call it.
__device__ inline void number_classes(const NmsInputs& in, ClassNumbers& numbers) {
  static_assert(1 << ClassNumbers::kHashBits == kChunkThreads, "each thread has a hash");
  const int64_t sampled = in.classes[threadIdx.x * in.num_boxes / kChunkThreads];
  numbers.by_hash[threadIdx.x] = 0;
  __syncthreads();
  atomicOr(&numbers.by_hash[ClassNumbers::hash(sampled)], 1u);
  __syncthreads();
  unsigned count;
  const unsigned number = block_exclusive_sum(numbers.by_hash[threadIdx.x], &count);
  numbers.by_hash[threadIdx.x] = number;
  if (threadIdx.x == 0) numbers.count = count;
  __syncthreads();
}

// The position of a cell on the Hilbert curve.
__device__ __forceinline__ unsigned curve_position(unsigned x, unsigned y) {
  unsigned position = 0;
#pragma unroll
  for (unsigned bit = kGridSide / 2; bit > 0; bit /= 2) {
    const unsigned right = (x & bit) != 0 ? 1 : 0, lower = (y & bit) != 0 ? 1 : 0;
    position = position * 4 + ((right * 3) ^ lower);
    if (lower != 0) continue;
    const unsigned flip = 0 - right, previous_x = x;  // the curve in the upper quadrants is transposed
    x = y ^ flip;
    y = previous_x ^ flip;
  }
  return position;
}

// The grid, in float32 for boxes of any dtype: which cell a box is in affects the time only.
struct Grid {
  float x, y, columns, rows;  // its corner; columns and rows for a length of 1

  __device__ explicit Grid(const Box<float>& bounds)
      : x(bounds.x1),
        y(bounds.y1),
        columns(kGridSide / (bounds.x2 - bounds.x1)),
        rows(kGridSide / (bounds.y2 - bounds.y1)) {}

  __device__ unsigned curve_cell_of(const Box<float>& box) const {
    const auto clamped = [](float index) {  // NaN is clamped, too
      return index > 0 ? (index < kGridSide ? static_cast<unsigned>(index) : kGridSide - 1) : 0;
    };
    return curve_position(clamped(((box.x1 + box.x2) / 2 - x) * columns), clamped(((box.y1 + box.y2) / 2 - y) * rows));
  }
};

// The cell of a class: the curve has `cells` cells for each.
__device__ __forceinline__ unsigned cell_of_class(unsigned cell, unsigned number, unsigned cells) {
  const unsigned coarse = cell * cells / kNumCells;
  return number * cells + (number % 2 == 0 ? coarse : cells - 1 - coarse);
}

// Writes which boxes have the classes of a group: called for each box with its position and the first cell of its
// class.
__device__ __forceinline__ void write_range(BoxRange* ranges, int to, int count, unsigned first_cell, unsigned cells,
                                            const unsigned (&offsets)[kNumCells]) {
  BoxRange& range = ranges[to / kWarpSize];
  const unsigned next = first_cell + cells;
  if (to % kWarpSize == 0) range.begin = static_cast<int>(offsets[first_cell]);
  if (to % kWarpSize == kWarpSize - 1 || to == count - 1)
    range.end = next < kNumCells ? static_cast<int>(offsets[next]) : count;
}

template <bool has_classes>
__global__ void __launch_bounds__(kChunkThreads, 1)
    order_chunk_kernel(NmsInputs in, unsigned* indices, BoxRange* ranges) {
  constexpr int kPerThread = static_cast<int>(kMaxChunk) / kChunkThreads, kIndexBits = 16;
  static_assert(kMaxChunk <= 1 << kIndexBits && kNumCells <= 1 << kIndexBits, "cell and position share 32 bits");
  __shared__ unsigned offsets[kNumCells];
  __shared__ uint16_t sorted[kMaxChunk];  // before: the cell of each box
  __shared__ ClassNumbers numbers;
  wait_for_previous_kernel();
  const int thread = static_cast<int>(threadIdx.x), count = static_cast<int>(in.num_boxes);
  for (int c = thread; c < kNumCells; c += kChunkThreads) offsets[c] = 0;
  const Grid grid(sample_bounds<float>(in));  // its barrier also follows the zeros of `offsets`
  if constexpr (has_classes) number_classes(in, numbers);
  const unsigned cells = has_classes ? kNumCells / numbers.count : kNumCells;  // of a class
#pragma unroll 2  // no more: instructions that run once are waited for
  for (int i = thread; i < count; i += kChunkThreads) {
    unsigned cell = grid.curve_cell_of(load_box_as<float>(in.box_type, in.boxes, i));
    if constexpr (has_classes) cell = cell_of_class(cell, numbers.number_of(in.classes[i]), cells);
    sorted[i] = static_cast<uint16_t>(cell);
  }
  unsigned positions[kPerThread];  // cell, and position in the cell
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    if (i >= count) continue;
    const unsigned cell = sorted[i];
    positions[k] = cell << kIndexBits | atomicAdd(&offsets[cell], 1u);
  }
  __syncthreads();
  sum_counts(offsets);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    if (i >= count) continue;
    const unsigned cell = positions[k] >> kIndexBits;
    const int to = static_cast<int>(offsets[cell] + (positions[k] & ((1u << kIndexBits) - 1)));
    sorted[to] = static_cast<uint16_t>(i);
    if constexpr (has_classes) write_range(ranges, to, count, cell / cells * cells, cells, offsets);
  }
  __syncthreads();
  for (int to = thread; to < count; to += kChunkThreads) indices[to] = sorted[to];
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads) gather_chunk_kernel(NmsInputs in, Chunk<T> chunk) {
  wait_for_previous_kernel();
  const int to = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const bool valid = to < chunk.count;
  const unsigned i = chunk.indices[valid ? to : 0];
  const Box<T> box = load_box_as<T>(in.box_type, in.boxes, i);
  const Box<T> none = empty_bounds<T>(), bounds = warp_bounds(valid ? enclose(none, box) : none);
  if (!valid) return;
  if (to % kWarpSize == 0) chunk.bounds[to / kWarpSize] = bounds;
  chunk.boxes[to] = box;
  chunk.keys[to] = load_wide_key(in, i);
  if constexpr (has_classes) chunk.classes[to] = in.classes[i];
}

template <bool has_classes, typename T>
cudaError_t launch_order(const NmsInputs& in, const Chunk<T>& chunk, cudaStream_t stream) {
  const cudaError_t status =
      launch(order_chunk_kernel<has_classes>, 1, kChunkThreads, 0, stream, in, chunk.indices, chunk.ranges);
  if (status != cudaSuccess) return status;
  return launch_dependent(gather_chunk_kernel<has_classes, T>, grid_blocks(in.num_boxes, kThreads), kThreads, 0, stream,
                          in, chunk);
}

}  // namespace
}  // namespace ssd_ops
