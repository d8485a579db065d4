// Which boxes of a tile suppress which. The plan is in nms.cu.
#pragma once

#include "cuda/nms/few_boxes.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

// The number of blocks that compare all boxes of a tile with those that precede them.
inline unsigned num_compare_blocks(int64_t boxes) {
  unsigned blocks = 0;
  for (int row_block = 0; row_block < ceil_div(boxes, kRows); ++row_block) blocks += row_block * kRows / kColumns + 1;
  return blocks;
}

// Compares kRows boxes of the tile with kColumns of those that precede them; each thread computes one word of the mask.
// The mask is not cleared between tiles: only the groups of words that nonzero_groups marks are read.
template <bool has_classes, typename T>
__device__ void compare_in_tile(const NmsWorkspace<T>& work, int block, int count,
                                const SuppressionThresholds<T>& thresholds) {
  __shared__ Box<T> columns[kColumns];
  __shared__ T areas[kColumns];
  __shared__ int64_t classes[kColumns];
  // The index of the block in the triangle of row blocks and the column groups that precede them.
  int row_block = 0, group = block;
  for (; group > row_block * kRows / kColumns; ++row_block) group -= row_block * kRows / kColumns + 1;
  if (row_block * kRows >= count) return;
  if (threadIdx.x < kColumns) {
    const int column = group * kColumns + static_cast<int>(threadIdx.x);
    const int64_t rank = work.tile[column < count ? column : 0];
    columns[threadIdx.x] = work.boxes[rank];
    areas[threadIdx.x] = area(columns[threadIdx.x]);
    if (has_classes) classes[threadIdx.x] = work.classes[rank];
  }
  __syncthreads();
  const int row = row_block * kRows + static_cast<int>(threadIdx.x) % kRows;
  // One word for all lanes of a warp, so that they read the same column: a shared-memory broadcast.
  const int first = static_cast<int>(threadIdx.x) / kRows * kWarpSize;
  const int num_preceding = row - group * kColumns - first;  // columns of the word that precede the row
  if (row >= count) return;
  const int64_t rank = work.tile[row];
  const Box<T> box = work.boxes[rank];
  const T box_area = area(box);
  const int64_t box_class = has_classes ? work.classes[rank] : 0;
  unsigned may = 0, bits = 0;
  if (num_preceding > 0) {
#pragma unroll 8
    for (int k = 0; k < kWarpSize; ++k) {
      const T inter = intersection(columns[first + k], box);
      const bool same = !has_classes || classes[first + k] == box_class;
      may |= (same && may_suppress(inter, areas[first + k] + box_area - inter, thresholds) ? 1u : 0u) << k;
    }
    if (num_preceding < kWarpSize) may &= (1u << num_preceding) - 1;
  }
  for (; may != 0; may &= may - 1) {
    const int column = first + __ffs(static_cast<int>(may)) - 1;
    if (suppresses(columns[column], box, areas[column], box_area, thresholds)) bits |= may & (0 - may);
  }
  work.mask[row * kWords + group * 4 + first / kWarpSize] = bits;
  if (bits != 0) atomicOr(&work.nonzero_groups[row], 1u << group);
}

}  // namespace
}  // namespace ssd_ops
