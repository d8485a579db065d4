// One object against one tile of priors; for the files of the matching kernel, which are compiled for each instruction
// set.
#pragma once

#include <limits>

#include "cpu/common/vec_math.h"
#include "cpu/match/match_priors.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// One object: its box and area.
template <typename T>
struct Object {
  Box<T> box;
  T area;
};

template <typename T>
Object<T> object_of(const MatchTask<T>& task, int64_t object) {
  const T* b = task.gt_boxes + 4 * object;
  const Box<T> box{b[0], b[1], b[2], b[3]};
  return {box, area(box)};
}

// IoU of an object with one prior, 0 for NaN; the same bits as tile_iou.
template <typename T>
T iou_with(const MatchTask<T>& task, const Object<T>& a, int64_t prior) {
  const T* p = task.priors.priors + 4 * prior;
  const Box<T> b{p[0], p[1], p[2], p[3]};
  return at_least_zero(iou(a.box, b, a.area, area(b)));
}

// Whether a box can overlap a box inside `tile`.
template <typename T>
bool touches(const Box<T>& box, const Box<T>& tile) {
  return box.x2 > tile.x1 && box.x1 < tile.x2 && box.y2 > tile.y1 && box.y1 < tile.y2;
}

// What reaches() takes for an IoU: a little less, so that rounding never hides an IoU that is reached.
// fl(inter / both) >= iou means inter / both >= iou * (1 - 2^-23), hence inter >= share * both in real numbers;
// rounding share * both keeps that, for it is monotone and inter is a number. Of an IoU near the denormals nothing is
// asked.
template <typename T>
T share_of(T iou) {
  return iou < T(1e-30) ? T(0) : iou * T(1 - 1.0 / (1 << 20));
}

// Whether the object may have share_of's IoU, and more than 0, with a prior of the tile: sometimes true when it has
// not, never false when it has. It spares the division, which costs as much as all the rest, for most pairs.
template <typename T>
bool reaches(const T* __restrict tile, const Object<T>& a, T share) {
  const T *x1 = tile, *y1 = x1 + kMatchTile, *x2 = y1 + kMatchTile, *y2 = x2 + kMatchTile, *areas = y2 + kMatchTile;
  int any = 0;
  for (int64_t j = 0; j < kMatchTile; ++j) {
    const T inter = intersection(a.box, Box<T>{x1[j], y1[j], x2[j], y2[j]});
    const T both = a.area + areas[j] - inter;
    any |= inter >= greater(share * both, std::numeric_limits<T>::denorm_min()) ? 1 : 0;
  }
  return any != 0;
}

// IoU with every prior of the tile, 0 for NaN.
template <typename T>
void tile_iou(const T* __restrict tile, const Object<T>& a, T* __restrict out) {
  const T *x1 = tile, *y1 = x1 + kMatchTile, *x2 = y1 + kMatchTile, *y2 = x2 + kMatchTile, *areas = y2 + kMatchTile;
  for (int64_t j = 0; j < kMatchTile; ++j)
    out[j] = at_least_zero(iou(a.box, Box<T>{x1[j], y1[j], x2[j], y2[j]}, a.area, areas[j]));
}

// Writes that a prior learns an object of its image.
template <typename T>
void learn(const MatchTask<T>& task, int64_t image, int64_t prior, int64_t g) {
  const int64_t object = task.offsets[image] + g, at = image * task.priors.count + prior;
  const T* p = task.priors.priors + 4 * prior;
  const Box<T> target = encode<VecMath>(object_of(task, object).box, Box<T>{p[0], p[1], p[2], p[3]},
                                        CodeType::center_size, task.variances);
  task.labels[at] = task.gt_labels[object];
  task.gt_index[at] = g;
  T* out = task.loc_targets + 4 * at;
  out[0] = target.x1;
  out[1] = target.y1;
  out[2] = target.x2;
  out[3] = target.y2;
}

}  // namespace
}  // namespace ssd_ops::cpu::SSD_OPS_ISA
