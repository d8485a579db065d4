// Bounds: the smallest box that contains a set of boxes, used to skip pairs of boxes that cannot overlap.
#pragma once

#include "core/box.h"

namespace ssd_ops {

// The bounds of no box.
template <typename T>
SSD_OPS_HD Box<T> empty_bounds() {
  return {T(INFINITY), T(INFINITY), -T(INFINITY), -T(INFINITY)};
}

// Bounds extended to contain `box`. NaN coordinates are ignored: a box with one overlaps nothing.
template <typename T>
SSD_OPS_HD Box<T> enclose(const Box<T>& bounds, const Box<T>& box) {
  return {lesser(box.x1, bounds.x1), lesser(box.y1, bounds.y1), greater(box.x2, bounds.x2), greater(box.y2, bounds.y2)};
}

// Whether a box overlaps the bounds; touching them is not enough. If it does not, it overlaps no box within them. False
// with a NaN.
template <typename T>
SSD_OPS_HD bool overlaps(const Box<T>& box, const Box<T>& bounds) {
  return box.x2 > bounds.x1 && box.x1 < bounds.x2 && box.y2 > bounds.y1 && box.y1 < bounds.y2;
}

}  // namespace ssd_ops
