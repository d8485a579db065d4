// When one box suppresses another; plain C++ for host and device.
#pragma once

#include <limits>

#include "core/box.h"

namespace ssd_ops {

// A box is suppressed at IoU > threshold; fl(inter / union) > threshold decides, as in the reference. Most pairs are
// decided without the division:
//   inter < fl(threshold * union)   then inter / union < threshold, and so is its rounding, which is monotone, also for
//                                   subnormal numbers: not suppressed, see may_suppress;
//   inter < s * (a + b)             with s = t / (1 + t) a little lowered: the same in other words, and what belongs to
//                                   one box alone can be kept with it, see area_share.
template <typename T>
struct SuppressionRule {
  T threshold;
  T low;    // the threshold, or 0 for a negative one
  T least;  // the least number above 0: keeps out pairs without overlap; -1 for a negative threshold
  T share;  // a little less than t / (1 + t); 0 for a negative threshold
};

// Suppression at IoU >= threshold is suppression at IoU > this one: no double lies between, and no IoU is below 0.
inline double threshold_just_below(double iou_threshold) {
  return iou_threshold > 0 ? std::nextafter(iou_threshold, -HUGE_VAL) : -1;
}

inline float next_above(float x) { return std::nextafterf(x, INFINITY); }
inline double next_above(double x) { return std::nextafter(x, HUGE_VAL); }

template <typename T>
SuppressionRule<T> suppression_rule(double iou_threshold) {
  const T threshold = threshold_below<T>(iou_threshold);
  if (iou_threshold < 0) return {threshold, T(0), T(-1), T(0)};
  const T share = T(1) / (T(1) + T(1) / threshold) * (T(1) - 16 * std::numeric_limits<T>::epsilon());
  return {threshold, threshold, next_above(T(0)), share};
}

// The part of a box's area with which, for a threshold of at least 0, a pair of positive and finite areas can only be
// suppressed where inter - area_share(a) > area_share(b), each rounded: `share` is lower by more than all roundings,
// and what those of subnormal numbers may add is taken off here. Exact where the threshold is 0.
template <typename T>
SSD_OPS_HD T area_share(T box_area, const SuppressionRule<T>& rule) {
  return at_least_zero(rule.share * box_area - std::numeric_limits<T>::denorm_min());
}

// A pair is suppressed for sure where inter - area_share(a) > area_share(b) + sure_excess(area of b). `share` lacks 16
// epsilon, roundings add less than 8, and as inter <= b, neither is more than that many epsilon of b. Not where numbers
// are so small that roundings are no longer relative, or so large that a + b may be infinite.
template <typename T>
SSD_OPS_HD T sure_excess(T box_area, const SuppressionRule<T>& rule) {
  constexpr T coarse = std::numeric_limits<T>::min() * (1 << 24), huge = std::numeric_limits<T>::max() / 4;
  const bool plain = box_area > coarse && rule.threshold > coarse && box_area < rule.share * huge;
  return plain ? 64 * std::numeric_limits<T>::epsilon() * box_area : std::numeric_limits<T>::infinity();
}

// Whether the IoU may be above the threshold; true where it is NaN.
template <typename T>
SSD_OPS_HD bool may_suppress(T inter, T both, const SuppressionRule<T>& rule) {
  return inter >= greater(rule.low * both, rule.least);
}

// The decision.
template <typename T>
SSD_OPS_HD bool suppresses(const Box<T>& a, const Box<T>& b, T area_a, T area_b, const SuppressionRule<T>& rule) {
  const T inter = intersection(a, b), both = area_a + area_b - inter;
  return may_suppress(inter, both, rule) && inter / both > rule.threshold;
}

}  // namespace ssd_ops
