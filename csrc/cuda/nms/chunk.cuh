// A chunk of up to kMaxChunk boxes, which is resolved as a whole: what its kernels share.
//
// Plan: sort_chunk_kernel, one block, writes the boxes in the order of the cells of a grid, so that 32 consecutive
// boxes, a group, are near each other. compare_near_kernel compares the boxes of each group with the boxes that overlap
// the bounds of the group, and stores the pairs of which the first precedes and suppresses the second as tiles of 32 x
// 32 bits, but only the tiles that are not 0. decide_kernel decides with one warp per group, all at once: a box is kept
// if no kept or undecided box that precedes it suppresses it, and suppressed if a kept one does. A warp repeats that
// while the states of other groups change. The states only advance, so the result does not depend on what a warp sees
// when; a warp gives up after some rounds without progress, and finish_kernel, one block, decides what is left.
#pragma once

#include "core/box.h"
#include "cuda/common/launch.cuh"
#include "cuda/common/workspace.h"
#include "cuda/nms/nms.h"

namespace ssd_ops {

constexpr int kChunkThreads = 1024, kChunkWarps = kChunkThreads / kWarpSize;  // of the kernels of one block
constexpr int kMaxGroups = static_cast<int>(kMaxChunk) / kWarpSize;
static_assert(kMaxChunk % kChunkThreads == 0, "each thread of a block has the same number of boxes");

// The state of the 32 boxes of a group, which one store or load of 64 bits writes or reads as a whole.
struct alignas(8) GroupState {
  unsigned kept, undecided;
};

template <typename T>
struct Chunk {
  int capacity;        // boxes at most
  const int* size;     // boxes of the chunk, or null: `capacity`
  int64_t* classes;    // [capacity], unused without classes
  Box<T>* boxes;       // [capacity] in the order of the cells
  uint64_t* keys;      // [capacity]: a box with a lower key precedes; ties by index
  unsigned* indices;   // [capacity]: the indices of the boxes in the input of the chunk
  GroupState* states;  // [groups]
  int* num_tiles;      // [groups]: the tiles of a group of rows
  uint16_t* columns;   // [groups, groups]: the group of columns of each tile
  unsigned* tiles;     // [groups, groups, 32]: bit b of word l is set if box b of the columns suppresses row l

  __device__ int count() const { return size != nullptr ? *size : capacity; }
  __host__ __device__ int groups() const { return (capacity + kWarpSize - 1) / kWarpSize; }
};

template <typename T>
inline Chunk<T> chunk_workspace(int64_t capacity, WorkspaceLayout& layout) {
  const int64_t groups = ceil_div(capacity, kWarpSize);
  Chunk<T> chunk{};
  chunk.capacity = static_cast<int>(capacity);
  chunk.classes = layout.array<int64_t>(capacity);
  chunk.boxes = layout.array<Box<T>>(capacity);
  chunk.keys = layout.array<uint64_t>(capacity);
  chunk.indices = layout.array<unsigned>(capacity);
  chunk.states = layout.array<GroupState>(groups);
  chunk.num_tiles = layout.array<int>(groups);
  chunk.columns = layout.array<uint16_t>(groups * groups);
  chunk.tiles = layout.array<unsigned>(groups * groups * kWarpSize);
  return chunk;
}

}  // namespace ssd_ops
