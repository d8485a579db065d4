// The derivatives of box.h, for host and device: what autograd computes for the reference, with torch's rules.
//
// The gradient of a minimum or maximum of two equal numbers is split in half. A side clamped at 0 passes its gradient
// on if it was 0 or more. A ratio that is 0 because its denominator is 0 passes none.
#pragma once

#include <cmath>
#include <limits>

#include "core/box.h"

namespace ssd_ops {

// d min(a, b) / d a; d min / d b is 1 minus this. NaN coordinates give NaN areas, so their gradient is NaN in any case.
template <typename T>
SSD_OPS_HD T grad_of_lesser(T a, T b) {
  return a == b ? T(0.5) : (a < b ? T(1) : T(0));
}
template <typename T>
SSD_OPS_HD T grad_of_greater(T a, T b) {
  return a == b ? T(0.5) : (a > b ? T(1) : T(0));
}

// The gradient of one pair with respect to one of its boxes. Gradients of the area and of the aspect angle are summed
// over all pairs first and become gradients of coordinates once, in box_gradient().
template <typename T>
struct PairGrad {
  T x1, y1, x2, y2, area, angle;
};
constexpr int kPairGradSize = 6;  // members of a PairGrad

// The gradient of ratio().
template <typename T>
SSD_OPS_HD void grad_ratio(T grad, T numerator, T denominator, T* grad_numerator, T* grad_denominator) {
  const bool empty = denominator == T(0);
  *grad_numerator = empty ? T(0) : grad / denominator;
  *grad_denominator = empty ? T(0) : -grad * (numerator / denominator / denominator);
}

// The gradient of one side, high - low, of the overlap: high is the lesser of two, low the greater of two.
template <typename T>
SSD_OPS_HD void grad_overlap_side(T grad, T a_low, T a_high, T b_low, T b_high, T* da_low, T* da_high, T* db_low,
                                  T* db_high) {
  const T side = lesser(a_high, b_high) - greater(a_low, b_low);
  const T passed = side >= T(0) ? grad : T(0);
  const T high = passed * grad_of_lesser(a_high, b_high), low = passed * grad_of_greater(a_low, b_low);
  *da_high += high;
  *db_high += passed - high;
  *da_low -= low;
  *db_low -= passed - low;
}

// The gradient of one side of the enclosing box: high is the greater of two, low the lesser of two.
template <typename T>
SSD_OPS_HD void grad_enclosing_side(T grad, T a_low, T a_high, T b_low, T b_high, T* da_low, T* da_high, T* db_low,
                                    T* db_high) {
  const T side = greater(a_high, b_high) - lesser(a_low, b_low);
  const T passed = side >= T(0) ? grad : T(0);
  const T high = passed * grad_of_greater(a_high, b_high), low = passed * grad_of_lesser(a_low, b_low);
  *da_high += high;
  *db_high += passed - high;
  *da_low -= low;
  *db_low -= passed - low;
}

// Adds the gradients through the intersection and the union to da and db.
template <typename T>
SSD_OPS_HD void add_overlap(T grad_inter, T grad_union, const Box<T>& a, const Box<T>& b, PairGrad<T>* da,
                            PairGrad<T>* db) {
  const T width = clamp_to_zero(lesser(a.x2, b.x2) - greater(a.x1, b.x1));
  const T height = clamp_to_zero(lesser(a.y2, b.y2) - greater(a.y1, b.y1));
  const T inter = grad_inter - grad_union;  // union = area a + area b - intersection
  grad_overlap_side(inter * height, a.x1, a.x2, b.x1, b.x2, &da->x1, &da->x2, &db->x1, &db->x2);
  grad_overlap_side(inter * width, a.y1, a.y2, b.y1, b.y2, &da->y1, &da->y2, &db->y1, &db->y2);
  da->area += grad_union;
  db->area += grad_union;
}

template <typename T>
SSD_OPS_HD void add_enclosing(T grad_width, T grad_height, const Box<T>& a, const Box<T>& b, PairGrad<T>* da,
                              PairGrad<T>* db) {
  grad_enclosing_side(grad_width, a.x1, a.x2, b.x1, b.x2, &da->x1, &da->x2, &db->x1, &db->x2);
  grad_enclosing_side(grad_height, a.y1, a.y2, b.y1, b.y2, &da->y1, &da->y2, &db->y1, &db->y2);
}

// The distance term of distance and complete IoU: squared distance of the centers over squared diagonal.
template <typename T>
SSD_OPS_HD void add_distance(T grad, const Box<T>& a, const Box<T>& b, PairGrad<T>* da, PairGrad<T>* db) {
  T width, height;
  enclosing_sides(a, b, &width, &height);
  const T diagonal = width * width + height * height + iou_epsilon<T>();
  const T dx = (a.x1 + a.x2) / T(2) - (b.x1 + b.x2) / T(2);
  const T dy = (a.y1 + a.y2) / T(2) - (b.y1 + b.y2) / T(2);
  const T grad_distance = -grad / diagonal;
  const T grad_diagonal = grad * ((dx * dx + dy * dy) / diagonal / diagonal);
  add_enclosing(grad_diagonal * width * T(2), grad_diagonal * height * T(2), a, b, da, db);
  const T x = grad_distance * dx, y = grad_distance * dy;  // 2 for the square, 1/2 for the mean of two corners
  da->x1 += x, da->x2 += x, da->y1 += y, da->y2 += y;
  db->x1 -= x, db->x2 -= x, db->y1 -= y, db->y2 -= y;
}

// The gradient of one element of a matrix of the IoU family for its two boxes.
template <IouMetric metric, typename T>
SSD_OPS_HD void pair_gradient(T grad, const Box<T>& a, const Box<T>& b, T area_a, T area_b, T angle_a, T angle_b,
                              PairGrad<T>* da, PairGrad<T>* db) {
  *da = *db = PairGrad<T>{};
  const T inter = intersection(a, b), union_area = area_a + area_b - inter;
  T grad_inter, grad_union;
  grad_ratio(grad, inter, union_area, &grad_inter, &grad_union);
  if constexpr (metric == IouMetric::generalized) {
    T width, height, grad_uncovered, grad_enclosing;
    enclosing_sides(a, b, &width, &height);
    const T enclosing = width * height;
    grad_ratio(-grad, enclosing - union_area, enclosing, &grad_uncovered, &grad_enclosing);
    grad_union -= grad_uncovered;
    grad_enclosing += grad_uncovered;
    add_enclosing(grad_enclosing * height, grad_enclosing * width, a, b, da, db);
  }
  if constexpr (metric == IouMetric::distance || metric == IouMetric::complete) add_distance(grad, a, b, da, db);
  if constexpr (metric == IouMetric::complete) {
    const T weight =
        aspect_weight(aspect_penalty(angle_a, angle_b), ratio(inter, union_area));  // a constant, as in torchvision
    da->angle = -grad * weight * (T(2) * aspect_factor<T>() * (angle_a - angle_b));
    db->angle = -da->angle;
  }
  add_overlap(grad_inter, grad_union, a, b, da, db);
}

// A box is flat if its height over its width is at most this.
template <typename T>
constexpr T kFlatness = std::numeric_limits<T>::epsilon();

// The gradient of a box from the sums over all of its pairs.
template <typename T>
SSD_OPS_HD Box<T> box_gradient(const PairGrad<T>& sum, const Box<T>& box) {
  const T width = box.x2 - box.x1, height = box.y2 - box.y1;
  T grad_width = sum.area * height, grad_height = sum.area * width;
  // The angle is atan(width / height). Of a flat box, also if its height is 0, the limit replaces numbers that may
  // overflow; a point has no gradient.
  if (sum.angle != T(0) && !(std::abs(height) <= std::abs(width) * kFlatness<T>)) {
    const T tangent = width / height, slope = sum.angle / (tangent * tangent + T(1));
    grad_width += slope / height;
    grad_height -= slope * (tangent / height);
  } else if (sum.angle != T(0) && width != T(0)) {
    const T slope = sum.angle / width;
    grad_width += slope * (height / width);
    grad_height -= slope;
  }
  return {sum.x1 - grad_width, sum.y1 - grad_height, sum.x2 + grad_width, sum.y2 + grad_height};
}

// The gradients of encode() or decode() with respect to the input (a box or a delta) and to its prior.
template <typename T>
struct CodecGrad {
  Box<T> coded, prior;
};

// A prior's gradient from those of its corners, center and size.
template <typename T>
SSD_OPS_HD Box<T> prior_gradient(const Box<T>& corners, T center_x, T center_y, T width, T height) {
  const T x = center_x / T(2), y = center_y / T(2);
  return {corners.x1 + (x - width), corners.y1 + (y - height), corners.x2 + (x + width), corners.y2 + (y + height)};
}

template <typename T>
SSD_OPS_HD CodecGrad<T> grad_encode(const Box<T>& grad, const Box<T>& box, const Box<T>& prior, CodeType code,
                                    const Variances<T>& var) {
  const T prior_w = prior.x2 - prior.x1, prior_h = prior.y2 - prior.y1;
  const Box<T> g{grad.x1 / var.v[0], grad.y1 / var.v[1], grad.x2 / var.v[2], grad.y2 / var.v[3]};
  if (code == CodeType::center_size) {
    const T dx = (box.x1 + box.x2) / T(2) - (prior.x1 + prior.x2) / T(2);
    const T dy = (box.y1 + box.y2) / T(2) - (prior.y1 + prior.y2) / T(2);
    const T w = (box.x2 - box.x1) / prior_w, h = (box.y2 - box.y1) / prior_h;
    const T grad_dx = g.x1 / prior_w, grad_dy = g.y1 / prior_h, grad_w = g.x2 / w, grad_h = g.y2 / h;
    const T size_w = -g.x1 * (dx / prior_w / prior_w) - grad_w * (w / prior_w);
    const T size_h = -g.y1 * (dy / prior_h / prior_h) - grad_h * (h / prior_h);
    const T x = grad_dx / T(2), y = grad_dy / T(2), width = grad_w / prior_w, height = grad_h / prior_h;
    return {{x - width, y - height, x + width, y + height},
            prior_gradient(Box<T>{T(0), T(0), T(0), T(0)}, -grad_dx, -grad_dy, size_w, size_h)};
  }
  if (code == CodeType::corner) return {g, {-g.x1, -g.y1, -g.x2, -g.y2}};
  const Box<T> n{g.x1 / prior_w, g.y1 / prior_h, g.x2 / prior_w, g.y2 / prior_h};
  const T size_w = -g.x1 * ((box.x1 - prior.x1) / prior_w / prior_w) - g.x2 * ((box.x2 - prior.x2) / prior_w / prior_w);
  const T size_h = -g.y1 * ((box.y1 - prior.y1) / prior_h / prior_h) - g.y2 * ((box.y2 - prior.y2) / prior_h / prior_h);
  return {n, prior_gradient(Box<T>{-n.x1, -n.y1, -n.x2, -n.y2}, T(0), T(0), size_w, size_h)};
}

template <typename Math = LibraryMath, typename T>
SSD_OPS_HD CodecGrad<T> grad_decode(const Box<T>& g, const Box<T>& delta, const Box<T>& prior, CodeType code,
                                    const Variances<T>& var) {
  const T prior_w = prior.x2 - prior.x1, prior_h = prior.y2 - prior.y1;
  const Box<T> step{delta.x1 * var.v[0], delta.y1 * var.v[1], delta.x2 * var.v[2], delta.y2 * var.v[3]};
  if (code == CodeType::center_size) {
    const T center_x = g.x1 + g.x2, center_y = g.y1 + g.y2;
    const T half_w = (g.x2 - g.x1) / T(2), half_h = (g.y2 - g.y1) / T(2);
    const T size_w = decoded_size<Math>(step.x2), size_h = decoded_size<Math>(step.y2);
    // A clamped log passes no gradient; at the maximum itself it is not clamped.
    const T log_w = step.x2 <= max_log_size<T>() ? half_w * prior_w * size_w : T(0);
    const T log_h = step.y2 <= max_log_size<T>() ? half_h * prior_h * size_h : T(0);
    return {{center_x * prior_w * var.v[0], center_y * prior_h * var.v[1], log_w * var.v[2], log_h * var.v[3]},
            prior_gradient(Box<T>{T(0), T(0), T(0), T(0)}, center_x, center_y, center_x * step.x1 + half_w * size_w,
                           center_y * step.y1 + half_h * size_h)};
  }
  if (code == CodeType::corner) return {{g.x1 * var.v[0], g.y1 * var.v[1], g.x2 * var.v[2], g.y2 * var.v[3]}, g};
  return {{g.x1 * prior_w * var.v[0], g.y1 * prior_h * var.v[1], g.x2 * prior_w * var.v[2], g.y2 * prior_h * var.v[3]},
          prior_gradient(g, T(0), T(0), g.x1 * step.x1 + g.x2 * step.x2, g.y1 * step.y1 + g.y2 * step.y2)};
}

}  // namespace ssd_ops
