// The cells of a uniform grid, by which boxes are sorted so that those that are compared together are near each other.
// Which cell a box is in affects the time only.
#pragma once

#include "core/bounds.h"
#include "cuda/common/scan.cuh"

namespace ssd_ops {
namespace {

constexpr int kGridSide = 64, kNumCells = kGridSide * kGridSide;

// The center as a box; coordinates that are not finite become NaN, so that they extend no bounds.
template <typename T>
__device__ Box<T> center_of(const Box<T>& box) {
  T x = (box.x1 + box.x2) / T(2), y = (box.y1 + box.y2) / T(2);
  if (x - x != T(0)) x = T(NAN);
  if (y - y != T(0)) y = T(NAN);
  return {x, y, x, y};
}

// The bounds of the centers of a sample of `count` boxes, one per thread. All threads of the block call it.
template <int threads, typename BoxOf>
__device__ auto sample_bounds(int64_t count, BoxOf box_of) {
  using SampledBox = decltype(box_of(int64_t{0}));
  using T = decltype(SampledBox::x1);
  __shared__ SampledBox bounds_by_warp[threads / kWarpSize];
  const int lane = threadIdx.x % kWarpSize;
  SampledBox bounds = warp_bounds(enclose(empty_bounds<T>(), center_of(box_of(threadIdx.x * count / threads))));
  if (lane == 0) bounds_by_warp[threadIdx.x / kWarpSize] = bounds;
  __syncthreads();
  return warp_bounds(bounds_by_warp[lane % (threads / kWarpSize)]);
}

// The column or row of a coordinate; NaN and coordinates out of range are clamped.
template <typename T>
__device__ unsigned grid_index(T x, T low, T high) {
  const T index = (x - low) / (high - low) * T(kGridSide);
  return index > T(0) ? (index < T(kGridSide) ? static_cast<unsigned>(index) : kGridSide - 1) : 0;
}

// Morton order: the bits of column and row are interleaved, so that near cells have near indices. Boxes of different
// classes are in different cells, unless there are many classes.
template <bool has_classes, typename T>
__device__ unsigned cell_of(const Box<T>& box, int64_t box_class, const Box<T>& center_bounds) {
  constexpr unsigned kClassCells = 64, kCellsPerClass = kNumCells / kClassCells;
  const Box<T> center = center_of(box);
  const unsigned column = grid_index(center.x1, center_bounds.x1, center_bounds.x2),
                 row = grid_index(center.y1, center_bounds.y1, center_bounds.y2);
  unsigned cell = 0;
  for (unsigned bit = 1; bit < kGridSide; bit *= 2) cell |= (column & bit) * bit | (row & bit) * bit * 2;
  if (!has_classes) return cell;
  return static_cast<unsigned>(static_cast<uint64_t>(box_class) % kClassCells) * kCellsPerClass + cell / kClassCells;
}

// Replaces the counts of the cells by their exclusive prefix sum. All threads of the block call it.
template <int threads>
__device__ void sum_counts(unsigned* counts) {
  constexpr int kPerThread = kNumCells / threads;
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

}  // namespace
}  // namespace ssd_ops
