// Boxes that may suppress one of a group of boxes: a test for one box and the whole group.
#pragma once

#include "core/bounds.h"
#include "core/suppression.h"
#include "cuda/common/reduce.cuh"

namespace ssd_ops {
namespace {

// The ranges of the sides of a group of boxes.
template <typename T>
struct SideRanges {
  Box<T> outer;  // lowest x1 and y1, highest x2 and y2
  Box<T> inner;  // lowest x2 and y2, highest x1 and y1
};

// The ranges over the boxes of those lanes of the warp whose `flag` is set.
template <typename T>
__device__ __forceinline__ SideRanges<T> warp_ranges(bool flag, const Box<T>& box) {
  const Box<T> none = empty_bounds<T>();
  return {warp_bounds(flag ? enclose(none, box) : none),
          warp_bounds(flag ? enclose(none, {box.x2, box.y2, box.x1, box.y1}) : none)};
}

// A lower bound of the IoU along one axis above which boxes may suppress each other: the IoU of two boxes is at most
// that of their intervals on either axis. It is a little below the threshold, by much more than rounding adds; 0, which
// only demands an overlap, where rounding is not relative.
template <typename T>
inline T axis_threshold(const SuppressionThresholds<T>& thresholds) {
  return thresholds.iou > T(0.01) ? lesser(thresholds.iou, T(1)) * T(0.999) : T(0);
}

// Whether a box may suppress one of a group, for a threshold of at least 0. False with a NaN, as then nothing is
// suppressed.
template <typename T>
__device__ __forceinline__ bool may_suppress_any(const Box<T>& box, const SideRanges<T>& ranges, T axis_threshold) {
  const Box<T>&outer = ranges.outer, &inner = ranges.inner;
  if (!overlaps(box, outer)) return false;
  // Of areas near the smallest numbers, rounding errors are not relative.
  if (!(area(box) > T(1e-30))) return true;
  const T width = lesser(box.x2, outer.x2) - greater(box.x1, outer.x1);  // of an intersection, at most
  const T height = lesser(box.y2, outer.y2) - greater(box.y1, outer.y1);
  const T union_width = greater(box.x2, inner.x1) - lesser(box.x1, inner.x2);  // at least
  const T union_height = greater(box.y2, inner.y1) - lesser(box.y1, inner.y2);
  return !(width < axis_threshold * union_width) && !(height < axis_threshold * union_height);
}

}  // namespace
}  // namespace ssd_ops
