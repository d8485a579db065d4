// Prior matching on the CPU: the ground truth that each prior is matched to, and its encoded box.
#pragma once

#include "core/matching.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

constexpr int64_t kPriorTile = 64;  // priors that are skipped, or compared with a ground truth, together

// The priors in tiles, made once for the whole batch. The last tile is padded with points at 0, which overlap nothing.
template <typename T>
struct PriorTiles {
  const T* priors;     // [P, 4] xyxy
  int64_t num_priors;  // P
  int64_t num_tiles;   // ceil(P / kPriorTile)
  T* arrays;           // [num_tiles, 5, kPriorTile]: x1, y1, x2, y2, area
  Box<T>* bounds;      // [num_tiles]: bounds of the priors of each tile
};

// One batch. The sum G ground truths are packed: image b has those from offsets[b] to offsets[b + 1] - 1. In the code
// `gt` is an index within its image and `packed_gt` one in the batch. The tiles are divided into segments, so that
// several threads can work on one image.
template <typename T>
struct MatchParams {
  PriorTiles<T> tiles;
  const T* gt_boxes;         // [sum G, 4] xyxy
  const T* gt_arrays;        // [5, sum G]: x1, y1, x2, y2, area
  const int64_t* gt_labels;  // [sum G]
  const bool* ignore;        // [sum G] or null
  const int64_t* offsets;    // [B + 1]
  int64_t num_packed_gt;     // sum G
  int64_t num_segments;
  T iou_threshold;  // a prior with this IoU or more is positive
  MatchRule rule;
  Variances<T> variances;
  T* best_iou;              // [num_segments, sum G]: highest IoU of a ground truth with the priors of a segment, 0 none
  int64_t* best_prior;      // [num_segments, sum G]: the lowest prior that has it, -1 none
  int64_t* overlapping_gt;  // [num_segments, sum G]: scratch, the ground truths that overlap the bounds of a tile
  int64_t* labels;          // [B, P]
  int64_t* gt_index;        // [B, P]
  T* loc_targets;           // [B, P, 4]

  bool ignored(int64_t packed_gt) const { return ignore != nullptr && ignore[packed_gt]; }
};

}  // namespace ssd_ops::cpu

// Fills arrays and bounds of the tiles.
SSD_OPS_CPU_KERNEL(void, make_prior_tiles, const PriorTiles<float>& tiles)
SSD_OPS_CPU_KERNEL(void, make_prior_tiles, const PriorTiles<double>& tiles)
// Fills arrays [5, n] from boxes [n, 4].
SSD_OPS_CPU_KERNEL(void, split_gt_boxes, const float* boxes, int64_t n, float* arrays)
SSD_OPS_CPU_KERNEL(void, split_gt_boxes, const double* boxes, int64_t n, double* arrays)
// Matches the priors of one segment to the ground truths of one image by the threshold, and writes their three results.
// Unless the rule is none, it also writes the best prior that each ground truth has in the segment.
SSD_OPS_CPU_KERNEL(void, match_segment, const MatchParams<float>& params, int64_t image, int64_t segment)
SSD_OPS_CPU_KERNEL(void, match_segment, const MatchParams<double>& params, int64_t image, int64_t segment)
// Assigns each ground truth of one image a prior by the rule, after all segments of the image are matched.
SSD_OPS_CPU_KERNEL(void, assign_priors, const MatchParams<float>& params, int64_t image)
SSD_OPS_CPU_KERNEL(void, assign_priors, const MatchParams<double>& params, int64_t image)
