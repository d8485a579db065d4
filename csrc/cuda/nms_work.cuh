// What nms on the GPU holds between its launches.
#pragma once

#include "box.h"
#include "cuda/launch.cuh"

namespace ssd_ops {

constexpr int kTile = 2048, kWord = 64, kWords = kTile / kWord;
constexpr int64_t kMostBlocks = 65536;  // of kernels over all boxes

struct NmsState {
  int64_t next;     // the first rank that no tile has reached
  int tile;         // boxes of the present tile
  int pushed;       // of them kept
  unsigned ticket;  // see is_last_block
};

template <typename T>
struct NmsWork {
  Box<T>*boxes, *pushed;              // [n] by rank; [kTile] the kept boxes of the present tile
  int64_t *classes, *pushed_classes;  // likewise; unused without classes
  int64_t* tile;                      // [kTile]: ranks
  uint64_t* mask;  // [kTile, kWords]: bit b of mask[i][w]: box 64 w + b stands before box i and suppresses it
  unsigned* dead;  // a bit for each rank
  // See nms_cells.cuh.
  Box<T>* cell_boxes;  // [n] in the order of cells
  unsigned* ranks;     // [n] of cell_boxes
  unsigned* cells;     // [64 * 64]: where the boxes of a cell begin, then end
  Box<T>* ranges;      // [blocks]: of the centres of a block's boxes; [0] of all in the end
  NmsState* state;
};

// Lays the arrays out one behind the other, each at a multiple of 256 bytes; returns the bytes they take.
template <typename T>
inline size_t lay_out(int64_t n, void* memory, NmsWork<T>* work) {
  size_t used = 0;
  const auto take = [&](auto** array, int64_t count) {
    *array = reinterpret_cast<std::decay_t<decltype(*array)>>(reinterpret_cast<uintptr_t>(memory) + used);
    used += static_cast<size_t>(round_up(count * static_cast<int64_t>(sizeof(**array)), 256));
  };
  take(&work->boxes, n);
  take(&work->classes, n);
  take(&work->pushed, kTile);
  take(&work->pushed_classes, kTile);
  take(&work->tile, kTile);
  take(&work->mask, int64_t(kTile) * kWords);
  take(&work->dead, ceil_div(n, kWarpSize));
  take(&work->state, 1);
  take(&work->cell_boxes, n);
  take(&work->ranks, n);
  take(&work->cells, 64 * 64);
  take(&work->ranges, ceil_div(n, 256) < kMostBlocks ? ceil_div(n, 256) : kMostBlocks);
  return used;
}

}  // namespace ssd_ops
