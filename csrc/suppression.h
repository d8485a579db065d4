// When one box suppresses another; plain C++ for host and device.
#pragma once

#include "box.h"

namespace ssd_ops {

// A box is suppressed at IoU > threshold; fl(inter / union) > threshold decides, as in the reference. Most pairs are
// decided without the division, because rounding is monotone, also for subnormal numbers:
//   inter < fl(threshold * union)          then inter / union < threshold, and so is its rounding: not suppressed;
//   inter > fl(next number * union)        then inter / union > the next number above the threshold: suppressed.
template <typename T>
struct SuppressionRule {
  T threshold;
  T low;    // the threshold, or 0 for a negative one
  T high;   // the next number above the threshold; NaN for a negative one, where no pair is decided early
  T least;  // the least number above 0: keeps out pairs without overlap; -1 for a negative threshold
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
  if (iou_threshold < 0) return {threshold, T(0), T(NAN), T(-1)};
  return {threshold, threshold, next_above(threshold), next_above(T(0))};
}

// Whether the IoU may be above the threshold; true where it is NaN.
template <typename T>
SSD_OPS_HD bool may_suppress(T inter, T both, const SuppressionRule<T>& rule) {
  return inter >= greater(rule.low * both, rule.least);
}

// Whether the IoU is above the threshold for sure.
template <typename T>
SSD_OPS_HD bool must_suppress(T inter, T both, const SuppressionRule<T>& rule) {
  return inter > rule.high * both;
}

// The decision.
template <typename T>
SSD_OPS_HD bool suppresses(const Box<T>& a, const Box<T>& b, T area_a, T area_b, const SuppressionRule<T>& rule) {
  const T inter = intersection(a, b), both = area_a + area_b - inter;
  return may_suppress(inter, both, rule) && inter / both > rule.threshold;
}

}  // namespace ssd_ops
