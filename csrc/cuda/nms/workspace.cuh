// What nms on the GPU holds between its launches.
#pragma once

#include "core/box.h"
#include "cuda/common/launch.cuh"
#include "cuda/nms/nms.h"

namespace ssd_ops {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kTile = 2048, kWords = kTile / kWarpSize;  // boxes of a tile; a bit for each of them
constexpr int kGroups = kWords / 4;                      // four words are loaded at once
constexpr int64_t kMostBlocks = 65536;                   // of kernels over all boxes

struct NmsState {
  int64_t from, next;  // the present tile was chosen from ranks from .. next - 1
  int tile;            // its boxes; 0 when none is left
  int pushed;          // kept boxes of the tile before
  unsigned ticket;     // see is_last_block
};

template <typename T>
struct NmsWork {
  // Arrays of a tile have room for kTile boxes, or for n where these are fewer.
  Box<T>*boxes, *pushed;              // [n] by rank; [tile] the kept boxes of the tile before
  int64_t *classes, *pushed_classes;  // likewise; unused without classes
  int64_t* tile;                      // [tile]: ranks, rising
  unsigned* mask;    // [tile, kWords]: bit b of mask[i][w]: box 32 w + b stands before box i and suppresses it
  unsigned* groups;  // [tile]: bit g: one of the words mask[i][4 g .. 4 g + 3] is not 0
  unsigned* dead;    // a bit for each rank
  // See cell_order.cuh; of more than kMostRanked boxes.
  Box<T>* cell_boxes;  // [n] in the order of cells
  unsigned* ranks;     // [n] of cell_boxes
  unsigned* cells;     // [64 * 64]: where the boxes of a cell begin, then end
  Box<T>* ranges;      // [blocks]: of the centers of a block's boxes; [0] of all in the end
  NmsState* state;
};

// Lays the arrays out one behind the other, each at a multiple of 256 bytes; returns the bytes they take.
template <typename T>
inline size_t lay_out(int64_t n, void* memory, NmsWork<T>* work) {
  const int64_t tile = n < kTile ? n : kTile, by_cell = n > kMostRanked ? n : 0;
  size_t used = 0;
  const auto take = [&](auto** array, int64_t count) {
    *array = reinterpret_cast<std::decay_t<decltype(*array)>>(reinterpret_cast<uintptr_t>(memory) + used);
    used += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(**array)), 256));
  };
  take(&work->boxes, n);
  take(&work->classes, n);
  take(&work->pushed, tile);
  take(&work->pushed_classes, tile);
  take(&work->tile, tile);
  take(&work->mask, tile * kWords);
  take(&work->groups, tile);
  take(&work->dead, ceil_div(n, kWarpSize));
  take(&work->state, 1);
  take(&work->cell_boxes, by_cell);
  take(&work->ranks, by_cell);
  take(&work->cells, by_cell > 0 ? 64 * 64 : 0);
  take(&work->ranges, ceil_div(by_cell, 256) < kMostBlocks ? ceil_div(by_cell, 256) : kMostBlocks);
  return used;
}

// What must stand before the first tile, which is the first boxes of all: they are alive. One thread for each rank.
template <typename T>
__device__ __forceinline__ void begin_tiles(const NmsWork<T>& work, int64_t rank, int64_t n, int64_t* progress) {
  if (rank < kTile) {
    work.tile[rank] = rank;
    work.groups[rank] = 0;
  }
  if (rank % kWarpSize == 0) work.dead[rank / kWarpSize] = 0;
  if (rank != 0) return;
  const int64_t first = n < kTile ? n : kTile;
  *work.state = NmsState{0, first, static_cast<int>(first), 0, 0};
  progress[0] = 0;
}

}  // namespace ssd_ops
