// Prior matching on the CPU: which prior learns which object, and its encoded box.
#pragma once

#include <cstdint>

#include "core/matching.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

constexpr int64_t kMatchTile = 64;  // priors that are rejected, or compared with an object, together

// The priors in tiles, made once for the whole batch. The last tile is filled up with points at 0, which overlap
// nothing.
template <typename T>
struct PriorTiles {
  const T* priors;  // [P, 4] xyxy
  int64_t count;    // P
  int64_t tiles;    // ceil(P / kMatchTile)
  T* arrays;        // [tiles, 5, kMatchTile]: x1, y1, x2, y2, area
  Box<T>* boxes;    // [tiles]: the box around the priors of a tile
};

// One batch; sum G objects, of which image b has offsets[b] .. offsets[b + 1] - 1. The priors are cut into `chunks`
// ranges of whole tiles, so that several threads can share an image.
template <typename T>
struct MatchTask {
  PriorTiles<T> priors;
  const T* gt_boxes;         // [sum G, 4] xyxy
  const T* gt_arrays;        // [5, sum G]: x1, y1, x2, y2, area
  const int64_t* gt_labels;  // [sum G]
  const bool* ignore;        // [sum G] or null
  const int64_t* offsets;    // [B + 1]
  int64_t objects;           // sum G
  int64_t chunks;
  T threshold;  // the lowest IoU that passes
  ClaimRule rule;
  Variances<T> variances;
  T* best_iou;          // [chunks, sum G]: highest IoU of an object with the priors of a chunk, 0 none
  int64_t* best_prior;  // [chunks, sum G]: the lowest prior that has it, -1 none
  int64_t* near;        // [chunks, sum G]: scratch, the objects near a tile
  int64_t* labels;      // [B, P]
  int64_t* gt_index;    // [B, P]
  T* loc_targets;       // [B, P, 4]

  bool ignored(int64_t object) const { return ignore != nullptr && ignore[object]; }
};

}  // namespace ssd_ops::cpu

// Fills arrays and boxes of the tiles.
SSD_OPS_CPU_KERNEL(void, match_tiles, const PriorTiles<float>& priors)
SSD_OPS_CPU_KERNEL(void, match_tiles, const PriorTiles<double>& priors)
// Fills arrays [5, n] from boxes [n, 4].
SSD_OPS_CPU_KERNEL(void, match_arrays, const float* boxes, int64_t n, float* arrays)
SSD_OPS_CPU_KERNEL(void, match_arrays, const double* boxes, int64_t n, double* arrays)
// Matches the priors of one chunk with the objects of one image by the threshold, writes the three results for them,
// and the best prior that each object has in the chunk (unless the rule is none).
SSD_OPS_CPU_KERNEL(void, match_chunk, const MatchTask<float>& task, int64_t image, int64_t chunk)
SSD_OPS_CPU_KERNEL(void, match_chunk, const MatchTask<double>& task, int64_t image, int64_t chunk)
// Gives the objects of one image the priors that they claim, after all its chunks.
SSD_OPS_CPU_KERNEL(void, match_claims, const MatchTask<float>& task, int64_t image)
SSD_OPS_CPU_KERNEL(void, match_claims, const MatchTask<double>& task, int64_t image)
