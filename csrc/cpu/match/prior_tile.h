// One ground truth against one tile of priors. Included by the files of the matching kernel only, which are compiled
// for each instruction set.
#pragma once

#include <limits>

#include "core/bounds.h"
#include "cpu/common/box_arrays.h"
#include "cpu/common/vec_math.h"
#include "cpu/match/match_priors.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

template <typename T>
struct GroundTruth {
  Box<T> box;
  T area;
};

template <typename T>
GroundTruth<T> load_gt(const MatchParams<T>& params, int64_t packed_gt) {
  const Box<T> box = load_box(params.gt_boxes, packed_gt);
  return {box, area(box)};
}

// IoU of a ground truth with one prior, 0 for NaN; the same bits as tile_iou.
template <typename T>
T prior_iou(const MatchParams<T>& params, const GroundTruth<T>& gt, int64_t prior) {
  const Box<T> box = load_box(params.tiles.priors, prior);
  return matching_iou(gt.box, box, gt.area, area(box));
}

// The ratio of intersection to union that reaches_iou() tests for an IoU: a little lower, so that rounding never
// rejects a prior that reaches it. fl(inter / union) >= iou means inter / union >= iou * (1 - 2^-23), hence inter >=
// ratio * union in real numbers; rounding ratio * union keeps that, for rounding is monotone and inter is a
// floating-point number. Near the subnormal numbers nothing is rejected.
template <typename T>
T min_overlap_ratio(T iou) {
  return iou < T(1e-30) ? T(0) : iou * T(1 - 1.0 / (1 << 20));
}

// Whether a prior of the tile may reach the IoU of `ratio` (min_overlap_ratio) and more than 0 with the ground truth.
// May be true although none does, but is never false if one does. Avoids the division, which costs as much as all the
// rest, for most pairs.
template <typename T>
bool reaches_iou(const T* __restrict tile, const GroundTruth<T>& gt, T ratio) {
  const T *x1 = tile, *y1 = x1 + kPriorTile, *x2 = y1 + kPriorTile, *y2 = x2 + kPriorTile, *areas = y2 + kPriorTile;
  int any = 0;
  for (int64_t j = 0; j < kPriorTile; ++j) {
    const T inter = intersection(gt.box, Box<T>{x1[j], y1[j], x2[j], y2[j]});
    const T union_area = gt.area + areas[j] - inter;
    any |= inter >= greater(ratio * union_area, std::numeric_limits<T>::denorm_min()) ? 1 : 0;
  }
  return any != 0;
}

// IoU with every prior of the tile, 0 for NaN.
template <typename T>
void tile_iou(const T* __restrict tile, const GroundTruth<T>& gt, T* __restrict out) {
  const T *x1 = tile, *y1 = x1 + kPriorTile, *x2 = y1 + kPriorTile, *y2 = x2 + kPriorTile, *areas = y2 + kPriorTile;
  for (int64_t j = 0; j < kPriorTile; ++j)
    out[j] = matching_iou(gt.box, Box<T>{x1[j], y1[j], x2[j], y2[j]}, gt.area, areas[j]);
}

// Writes label, index and encoded box of a ground truth of the image to a prior.
template <typename T>
void write_match(const MatchParams<T>& params, int64_t image, int64_t prior, int64_t gt) {
  const int64_t packed_gt = params.offsets[image] + gt, index = image * params.tiles.num_priors + prior;
  params.labels[index] = params.gt_labels[packed_gt];
  params.gt_index[index] = gt;
  store_box(encode<VecMath>(load_box(params.gt_boxes, packed_gt), load_box(params.tiles.priors, prior),
                            CodeType::center_size, params.variances),
            params.loc_targets, index);
}

}  // namespace
}  // namespace ssd_ops::cpu::SSD_OPS_ISA
