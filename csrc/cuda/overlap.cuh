// Overlap as kernels compute it where most boxes share nothing.
#pragma once

#include "box.h"

namespace ssd_ops {

// The bits of iou() in box.h, but for the sign of a zero. Pairs that share nothing are spared the division, whose
// zero numerator would also take the slow way.
template <typename T>
__device__ __forceinline__ T iou_if_any(T inter, T both) {
  if (inter > T(0)) return inter / both;
  return both == both ? T(0) : both;
}

}  // namespace ssd_ops
