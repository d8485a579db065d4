// What NMS of many boxes keeps in global memory between its launches.
#pragma once

#include "cuda/nms/chunk.cuh"
#include "cuda/nms/grid_cells.cuh"
#include "cuda/nms/nms.h"

namespace ssd_ops {

struct ManyState {
  int64_t next_rank;  // boxes before it are in a chunk or suppressed
  int64_t num_kept;   // kept boxes so far
  int chunk_size;     // boxes of the current chunk; 0 when no box is left
  unsigned ticket;    // see is_last_block
};

template <typename T>
struct ManyWorkspace {
  Chunk<T> chunk;
  unsigned* chunk_ranks;  // [kMaxChunk], ascending
  Box<T>* kept_bounds;    // [kMaxGroups]: bounds of the kept boxes of each group of the chunk
  Box<T>* boxes;          // [n] by rank
  int64_t* classes;       // [n] likewise; unused without classes
  unsigned* suppressed;   // a bit for each rank
  Box<T>* cell_boxes;     // [n] in the order of the cells
  unsigned* cell_ranks;   // [n]: the ranks of cell_boxes
  unsigned* offsets;      // [kNumCells]: boxes of each cell, then the offset of its first box, finally that of its end
  ManyState* state;       // after `offsets`: both are cleared together
};

template <typename T>
inline ManyWorkspace<T> many_workspace(int64_t n, WorkspaceLayout& layout) {
  ManyWorkspace<T> work;
  work.chunk = chunk_workspace<T>(kMaxChunk, layout);
  work.chunk_ranks = layout.array<unsigned>(kMaxChunk);
  work.kept_bounds = layout.array<Box<T>>(kMaxGroups);
  work.boxes = layout.array<Box<T>>(n);
  work.classes = layout.array<int64_t>(n);
  work.suppressed = layout.array<unsigned>(ceil_div(n, kWarpSize));
  work.cell_boxes = layout.array<Box<T>>(n);
  work.cell_ranks = layout.array<unsigned>(n);
  work.offsets = layout.array<unsigned>(kNumCells);
  work.state = layout.array<ManyState>(1);
  work.chunk.size = &work.state->chunk_size;
  return work;
}

}  // namespace ssd_ops
