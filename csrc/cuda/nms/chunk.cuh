// More than kMaxFew and up to kMaxChunk boxes, which are resolved at once: what the kernels share.
//
// Plan: sort_chunk_kernel, one block, writes the boxes in the order of the cells of a grid, so that 32 consecutive
// boxes, a group, are near each other. With classes the kernels of order_chunk.cuh do it: the boxes of a class follow
// each other, so that a group has few classes, and is compared with boxes of these alone. compare_near_kernel compares
// the boxes of each group with the boxes that may suppress one of them (near.cuh), and stores the pairs of which the
// first precedes and suppresses the second as tiles of 32 x 32 bits, but only the tiles that are not 0. decide_kernel
// decides with one warp per group, all at once: a box is kept if no kept or undecided box that precedes it suppresses
// it, and suppressed if a kept one does. A warp repeats that while the states of other groups change. The states only
// advance, so the result does not depend on what a warp sees when; a warp gives up after some rounds without progress,
// and finish_kernel, one block, decides what is left.
#pragma once

#include "core/box.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/workspace.h"
#include "cuda/nms/nms.h"

namespace ssd_ops {

constexpr int kChunkThreads = 1024, kChunkWarps = kChunkThreads / kWarpSize;  // of the kernels of one block
constexpr int kMaxGroups = static_cast<int>(kMaxChunk) / kWarpSize;
static_assert(kMaxChunk % kChunkThreads == 0, "each thread of a block has the same number of boxes");

// Consecutive boxes from `begin` to `end` - 1.
struct BoxRange {
  int begin, end;
};

// The state of the 32 boxes of a group, which one store or load of 64 bits writes or reads as a whole.
struct alignas(8) GroupState {
  unsigned kept, undecided;
};

template <typename T>
struct Chunk {
  int count, groups;   // of boxes, and of 32 of them: how many tiles each of these has capacity for, too
  Box<T>* boxes;       // [count] in the order of the cells
  uint64_t* keys;      // [count]: a box with a lower key precedes; ties by index
  unsigned* indices;   // [count]: the indices of the boxes in the input
  GroupState* states;  // [groups]
  int* num_tiles;      // [groups]: the tiles of a group of rows
  uint16_t* columns;   // [groups, groups]: the group of columns of each tile
  unsigned* tiles;     // [groups, groups, 32]: bit b of word l is set if box b of the columns suppresses row l
  // Written and read by the kernels of order_chunk.cuh and compare_listed.cuh only:
  Box<T>* bounds;    // [groups]
  int64_t* classes;  // [count]; with classes only, as the next
  BoxRange* ranges;  // [groups]: all boxes with a class that a box of the group has are in it
};

template <typename T>
inline Chunk<T> chunk_workspace(int64_t count, bool has_classes, WorkspaceLayout& layout) {
  const int64_t groups = ceil_div(count, kWarpSize);
  Chunk<T> chunk{};
  chunk.count = static_cast<int>(count);
  chunk.groups = static_cast<int>(groups);
  chunk.boxes = layout.array<Box<T>>(count);
  chunk.keys = layout.array<uint64_t>(count);
  chunk.indices = layout.array<unsigned>(count);
  chunk.states = layout.array<GroupState>(groups);
  chunk.num_tiles = layout.array<int>(groups);
  chunk.columns = layout.array<uint16_t>(groups * groups);
  chunk.tiles = layout.array<unsigned>(groups * groups * kWarpSize);
  chunk.bounds = layout.array<Box<T>>(groups);
  chunk.classes = layout.array<int64_t>(has_classes ? count : 0);
  chunk.ranges = layout.array<BoxRange>(has_classes ? groups : 0);
  return chunk;
}

}  // namespace ssd_ops
