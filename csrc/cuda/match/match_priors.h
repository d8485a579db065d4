// Prior matching on the GPU; torch-free.
#pragma once

#include "core/dtype.h"
#include "core/matching.h"

namespace ssd_ops {

constexpr int64_t kPriorTile = 32;  // priors that a warp compares with a ground truth together

SSD_OPS_HD int64_t num_prior_tiles(int64_t num_priors) { return ceil_div(num_priors, kPriorTile); }

// One batch; everything is dense, boxes are aligned. The sum G ground truths are packed: image b has those from
// offsets[b] to offsets[b + 1] - 1. In the code `gt` is an index within its image and `packed_gt` one in the batch.
// Offsets and labels are not validated: offsets are clamped to 0 .. num_packed_gt and made non-decreasing before they
// are used, labels are only copied.
template <typename T>
struct CudaMatchParams {
  const Box<T>* gt_boxes;    // [sum G] xyxy
  const int64_t* gt_labels;  // [sum G]
  const bool* ignore;        // [sum G] or null
  const int64_t* offsets;    // [B + 1]
  const Box<T>* priors;      // [P] xyxy
  int64_t num_packed_gt;     // sum G
  int64_t num_images;        // B
  int64_t num_priors;        // P
  T iou_threshold;           // a prior with this IoU or more is positive
  MatchRule rule;
  Variances<T> variances;
  Box<T>* tile_bounds;   // [num_prior_tiles(P)]: workspace, bounds of the priors of each tile
  long long* workspace;  // [sum G + B + 1]; long long, for atomics
  int64_t* labels;       // [B, P]
  long long* gt_index;   // [B, P]
  Box<T>* loc_targets;   // [B, P]

  // [sum G], two views of the same memory. match_kernel writes the best prior of each ground truth as IoU bits << 32 |
  // ~prior, 0 for none; assign_kernel replaces that by the state of the ground truth, see deferred_acceptance.cuh.
  SSD_OPS_HD unsigned long long* best_prior_keys() const { return reinterpret_cast<unsigned long long*>(workspace); }
  SSD_OPS_HD long long* gt_states() const { return workspace; }
  SSD_OPS_HD long long* clamped_offsets() const { return workspace + num_packed_gt; }  // [B + 1]
  SSD_OPS_HD bool ignored(int64_t packed_gt) const { return ignore != nullptr && ignore[packed_gt]; }
};

int launch_match_priors(const CudaMatchParams<float>& params, CUstream_st* stream);
int launch_match_priors(const CudaMatchParams<double>& params, CUstream_st* stream);

}  // namespace ssd_ops
