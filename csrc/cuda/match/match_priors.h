// Prior matching on the GPU; torch-free.
#pragma once

#include "core/dtype.h"
#include "core/matching.h"

namespace ssd_ops {

constexpr int64_t kPriorTile = 32;  // priors that a warp compares with a ground truth together

SSD_OPS_HD int64_t num_prior_tiles(int64_t num_priors) { return ceil_div(num_priors, kPriorTile); }

// Properties of the priors of a tile, from which iou_bound() computes an upper bound of their IoU with a box.
template <typename T>
struct alignas(4 * sizeof(T)) PriorTile {
  Box<T> bounds;  // the smallest box that contains the priors
  T max_width, max_height, min_area;
};

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
  PriorTile<T>* tiles;   // [num_prior_tiles(P)]: workspace
  long long* workspace;  // [match_workspace_words()]
  int64_t* labels;       // [B, P]
  long long* gt_index;   // [B, P]; long long, for atomics
  Box<T>* loc_targets;   // [B, P]

  // [sum G]: first the best prior of each ground truth, see encode_best_prior() in best_prior.cuh; while assign_kernel
  // runs the state of each, see deferred_acceptance.cuh.
  SSD_OPS_HD long long* gt_states() const { return workspace; }
  SSD_OPS_HD long long* clamped_offsets() const { return workspace + num_packed_gt; }  // [B + 1]
  // The ticket of is_last_block() of an image.
  SSD_OPS_HD unsigned* ticket(int64_t image) const {
    return reinterpret_cast<unsigned*>(workspace + num_packed_gt + num_images + 1 + image);
  }
  SSD_OPS_HD bool ignored(int64_t packed_gt) const { return ignore != nullptr && ignore[packed_gt]; }
};

constexpr int64_t match_workspace_words(int64_t num_packed_gt, int64_t num_images) {
  return num_packed_gt + 2 * num_images + 1;
}

int launch_match_priors(const CudaMatchParams<float>& params, CUstream_st* stream);
int launch_match_priors(const CudaMatchParams<double>& params, CUstream_st* stream);

}  // namespace ssd_ops
