// What NMS keeps in global memory between its launches.
#pragma once

#include "core/box.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/workspace.h"
#include "cuda/nms/compare.cuh"
#include "cuda/nms/resolve_words.cuh"

namespace ssd_ops {

constexpr int kNmsTile = static_cast<int>(kMaxFew);               // boxes of a tile
constexpr int kWordGroups = kWords / 4;                           // of four words, which are loaded at once
constexpr int64_t kMaxBlocks = 65536;                             // of kernels over all boxes
constexpr int kGridSide = 64, kNumCells = kGridSide * kGridSide;  // of the grid of cell_order.cuh

struct NmsState {
  int64_t tile_begin, tile_end;  // the current tile was chosen from the ranks tile_begin .. tile_end - 1
  int64_t num_kept;              // kept boxes so far
  int tile_size;                 // boxes of the current tile; 0 when no box is left
  int num_tile_kept;             // kept boxes of the previous tile
  unsigned ticket;               // see is_last_block
};

template <typename T>
struct NmsWorkspace {
  // Arrays over a tile have min(kNmsTile, n) elements.
  Box<T>*boxes, *tile_kept;              // [n] by rank; [tile] the kept boxes of the previous tile
  int64_t *classes, *tile_kept_classes;  // likewise; unused without classes
  int64_t* tile;                         // [tile]: the ranks of its boxes, ascending
  unsigned* mask;  // [tile, kWords]: bit b of mask[i][w] is set if box 32 w + b precedes box i and suppresses it
  unsigned* nonzero_groups;  // [tile]: bit g is set if one of the words mask[i][4 g .. 4 g + 3] is not 0
  unsigned* suppressed;      // a bit for each rank
  // For more than kMaxRanked boxes, see cell_order.cuh.
  Box<T>* cell_boxes;      // [n] in the order of the cells
  unsigned* cell_ranks;    // [n]: the ranks of cell_boxes
  unsigned* cell_offsets;  // [kNumCells]: boxes of each cell, then the offset of its first box, finally that of its end
  Box<T>* center_bounds;   // [blocks]: bounds of the centers of each block's boxes; finally [0] of all
  NmsState* state;
};

template <typename T>
inline NmsWorkspace<T> nms_workspace(int64_t n, WorkspaceLayout& layout) {
  const int64_t tile = n < kNmsTile ? n : kNmsTile, num_cell_boxes = n > kMaxRanked ? n : 0;
  const int64_t bounds_blocks = ceil_div(num_cell_boxes, kThreads);
  NmsWorkspace<T> work;
  work.boxes = layout.array<Box<T>>(n);
  work.classes = layout.array<int64_t>(n);
  work.tile_kept = layout.array<Box<T>>(tile);
  work.tile_kept_classes = layout.array<int64_t>(tile);
  work.tile = layout.array<int64_t>(tile);
  work.mask = layout.array<unsigned>(tile * kWords);
  work.nonzero_groups = layout.array<unsigned>(tile);
  work.suppressed = layout.array<unsigned>(ceil_div(n, kWarpSize));
  work.state = layout.array<NmsState>(1);
  work.cell_boxes = layout.array<Box<T>>(num_cell_boxes);
  work.cell_ranks = layout.array<unsigned>(num_cell_boxes);
  work.cell_offsets = layout.array<unsigned>(num_cell_boxes > 0 ? kNumCells : 0);
  work.center_bounds = layout.array<Box<T>>(bounds_blocks < kMaxBlocks ? bounds_blocks : kMaxBlocks);
  return work;
}

// The state before the first tile, which is the first boxes of all; nothing is suppressed. Called once for each index i
// from 0 to n - 1, by any thread.
template <typename T>
__device__ __forceinline__ void initialize_tiles(const NmsWorkspace<T>& work, int64_t i, int64_t n) {
  if (i < kNmsTile) {
    work.tile[i] = i;
    work.nonzero_groups[i] = 0;
  }
  if (i % kWarpSize == 0) work.suppressed[i / kWarpSize] = 0;
  if (i != 0) return;
  const int64_t first = n < kNmsTile ? n : kNmsTile;
  *work.state = NmsState{0, first, 0, static_cast<int>(first), 0, 0};
}

}  // namespace ssd_ops
