// When one box suppresses another; plain C++ for host and device.
#pragma once

#include <limits>

#include "core/box.h"
#include "core/threshold.h"

namespace ssd_ops {

// A box is suppressed if its IoU with a kept box exceeds the threshold t: fl(inter / union) > t decides, as in the
// reference, where fl() is the result rounded to T. Two tests without the division reject most pairs:
//   inter < fl(t * union)   Then inter / union < t in real numbers, and rounding is monotone (also for subnormal
//                           numbers), so the pair is not suppressed: may_suppress.
//   inter < s * (a + b)     The same for areas a and b and s = t / (1 + t), a little lowered, since inter / (a + b -
//                           inter) > t is inter > s * (a + b). s * a depends on one box alone and can be stored with
//                           it: scaled_area.
template <typename T>
struct SuppressionThresholds {
  T iou;
  T nonnegative_iou;   // max(iou, 0)
  T min_intersection;  // the smallest positive number, to reject pairs without overlap; -1 for a negative threshold
  T area_factor;       // a little less than t / (1 + t); 0 for a negative threshold
};

// Suppression at IoU >= threshold is suppression at IoU > this one: no double is between them, and no IoU is below 0.
inline double next_double_below(double iou_threshold) {
  return iou_threshold > 0 ? std::nextafter(iou_threshold, -HUGE_VAL) : -1;
}

template <typename T>
SuppressionThresholds<T> suppression_thresholds(double iou_threshold) {
  const T threshold = round_threshold_down<T>(iou_threshold);
  if (iou_threshold < 0) return {threshold, T(0), T(-1), T(0)};
  const T area_factor = T(1) / (T(1) + T(1) / threshold) * (T(1) - 16 * std::numeric_limits<T>::epsilon());
  return {threshold, threshold, next_above(T(0)), area_factor};
}

// For a threshold of at least 0, a pair of boxes with positive and finite areas can only be suppressed if
// inter - scaled_area(a) > scaled_area(b), each rounded. area_factor is lowered by more than all relative rounding
// errors, and what rounding to subnormal numbers can add is subtracted here. Exact if the threshold is 0.
template <typename T>
SSD_OPS_HD T scaled_area(T box_area, const SuppressionThresholds<T>& thresholds) {
  return clamp_to_zero(thresholds.area_factor * box_area - std::numeric_limits<T>::denorm_min());
}

// A pair is certainly suppressed if inter - scaled_area(a) > scaled_area(b) + rounding_margin(area of b). area_factor
// is 16 epsilon too low, rounding adds less than 8, and since inter <= b both are at most that many epsilon of b.
// Infinite if the numbers are so small that rounding errors are not relative, or so large that a + b may be infinite.
template <typename T>
SSD_OPS_HD T rounding_margin(T box_area, const SuppressionThresholds<T>& thresholds) {
  constexpr T small = std::numeric_limits<T>::min() * (1 << 24), large = std::numeric_limits<T>::max() / 4;
  const bool in_range = box_area > small && thresholds.iou > small && box_area < thresholds.area_factor * large;
  return in_range ? 64 * std::numeric_limits<T>::epsilon() * box_area : std::numeric_limits<T>::infinity();
}

// Whether the IoU may exceed the threshold; either answer for a NaN, which does not exceed it.
template <typename T>
SSD_OPS_HD bool may_suppress(T inter, T union_area, const SuppressionThresholds<T>& thresholds) {
  return inter >= greater(thresholds.nonnegative_iou * union_area, thresholds.min_intersection);
}

// Whether the IoU exceeds the threshold: the decision.
template <typename T>
SSD_OPS_HD bool suppresses(const Box<T>& a, const Box<T>& b, T area_a, T area_b,
                           const SuppressionThresholds<T>& thresholds) {
  const T inter = intersection(a, b), union_area = area_a + area_b - inter;
  return may_suppress(inter, union_area, thresholds) && inter / union_area > thresholds.iou;
}

}  // namespace ssd_ops
