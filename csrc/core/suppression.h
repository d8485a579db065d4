// When one box suppresses another; plain C++ for host and device.
#pragma once

#include <limits>

#include "core/box.h"
#include "core/threshold.h"

namespace ssd_ops {

// A box is suppressed if its IoU with a kept box exceeds the threshold: fl(inter / union) > threshold decides, as in
// the reference. Two tests without the division reject most pairs:
//   inter < fl(threshold * union)   Then inter / union < threshold in real numbers, and rounding is monotone (also for
//                                   subnormal numbers), so the pair is not suppressed: may_suppress.
//   inter < s * (a + b)             The same for s = t / (1 + t), a little lowered. s * a depends on one box alone and
//                                   can be stored with it: scaled_area.
template <typename T>
struct SuppressionRule {
  T threshold;
  T nonnegative_threshold;  // max(threshold, 0)
  T min_intersection;  // the smallest positive number, to reject pairs without overlap; -1 for a negative threshold
  T area_factor;       // a little less than t / (1 + t); 0 for a negative threshold
};

// Suppression at IoU >= threshold is suppression at IoU > this one: no double lies between, and no IoU is below 0.
inline double threshold_just_below(double iou_threshold) {
  return iou_threshold > 0 ? std::nextafter(iou_threshold, -HUGE_VAL) : -1;
}

template <typename T>
SuppressionRule<T> suppression_rule(double iou_threshold) {
  const T threshold = threshold_below<T>(iou_threshold);
  if (iou_threshold < 0) return {threshold, T(0), T(-1), T(0)};
  const T area_factor = T(1) / (T(1) + T(1) / threshold) * (T(1) - 16 * std::numeric_limits<T>::epsilon());
  return {threshold, threshold, next_above(T(0)), area_factor};
}

// For a threshold of at least 0, a pair of boxes with positive and finite areas can only be suppressed if
// inter - scaled_area(a) > scaled_area(b), each rounded. area_factor is lowered by more than all relative rounding
// errors, and what rounding to subnormal numbers can add is subtracted here. Exact if the threshold is 0.
template <typename T>
SSD_OPS_HD T scaled_area(T box_area, const SuppressionRule<T>& rule) {
  return at_least_zero(rule.area_factor * box_area - std::numeric_limits<T>::denorm_min());
}

// A pair is certainly suppressed if inter - scaled_area(a) > scaled_area(b) + certainty_margin(area of b). area_factor
// is 16 epsilon too low, rounding adds less than 8, and since inter <= b both are at most that many epsilon of b.
// Infinite if the numbers are so small that rounding errors are not relative, or so large that a + b may be infinite.
template <typename T>
SSD_OPS_HD T certainty_margin(T box_area, const SuppressionRule<T>& rule) {
  constexpr T small = std::numeric_limits<T>::min() * (1 << 24), large = std::numeric_limits<T>::max() / 4;
  const bool in_range = box_area > small && rule.threshold > small && box_area < rule.area_factor * large;
  return in_range ? 64 * std::numeric_limits<T>::epsilon() * box_area : std::numeric_limits<T>::infinity();
}

// Whether the IoU may exceed the threshold; true if it is NaN.
template <typename T>
SSD_OPS_HD bool may_suppress(T inter, T union_area, const SuppressionRule<T>& rule) {
  return inter >= greater(rule.nonnegative_threshold * union_area, rule.min_intersection);
}

// Whether the IoU exceeds the threshold: the decision.
template <typename T>
SSD_OPS_HD bool suppresses(const Box<T>& a, const Box<T>& b, T area_a, T area_b, const SuppressionRule<T>& rule) {
  const T inter = intersection(a, b), union_area = area_a + area_b - inter;
  return may_suppress(inter, union_area, rule) && inter / union_area > rule.threshold;
}

}  // namespace ssd_ops
