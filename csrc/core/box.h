// The only box arithmetic: area, intersection, the IoU family, and encoding relative to priors.
//
// Plain C++ for host and device. No compiler may contract a * b + c or reorder operations, so all instruction sets and
// GPUs give the bits of the reference (ssd_ops/reference) wherever no exp, log or atan is involved.
#pragma once

#include <cmath>

#include "core/host_device.h"

namespace ssd_ops {

// xyxy. Aligned to its size, so that a box is one vector load; dense() in ops/tensor_access.h copies tensors that start
// elsewhere.
template <typename T>
struct alignas(4 * sizeof(T)) Box {
  T x1, y1, x2, y2;
};

// Minimum and maximum, one instruction each. If a is NaN the result is b. If b is NaN, or both are zeros of different
// sign, it depends on the processor, and callers must not rely on it: SSE returns b; a GPU's fminf returns the operand
// that is not NaN, and -0 rather than 0. The emulator of the tests follows the GPU.
template <typename T>
SSD_OPS_HD T lesser(T a, T b) {
#if defined(__CUDA_ARCH__) || defined(SSD_OPS_EMULATED)
  if constexpr (sizeof(T) == sizeof(float)) return ::fminf(a, b);
#endif
  return a < b ? a : b;
}
template <typename T>
SSD_OPS_HD T greater(T a, T b) {
#if defined(__CUDA_ARCH__) || defined(SSD_OPS_EMULATED)
  if constexpr (sizeof(T) == sizeof(float)) return ::fmaxf(a, b);
#endif
  return a > b ? a : b;
}

// max(x, 0), 0 for NaN. No NaN is lost by that: where the side of an intersection is NaN, so is the area of a box.
template <typename T>
SSD_OPS_HD T clamp_to_zero(T x) {
  return x > T(0) ? x : T(0);
}

template <typename T>
SSD_OPS_HD T area(const Box<T>& a) {
  return (a.x2 - a.x1) * (a.y2 - a.y1);
}

template <typename T>
SSD_OPS_HD T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = clamp_to_zero(lesser(a.x2, b.x2) - greater(a.x1, b.x1));
  const T height = clamp_to_zero(lesser(a.y2, b.y2) - greater(a.y1, b.y1));
  return width * height;
}

// Whether a side is shorter than min_size, or NaN; false for every box if min_size is 0.
template <typename T>
SSD_OPS_HD bool too_small(const Box<T>& a, T min_size) {
  return min_size > T(0) && !(a.x2 - a.x1 >= min_size && a.y2 - a.y1 >= min_size);
}

// How complete IoU divides. A division that is not `checked` (on a GPU) gets no denominator that is 0 or NaN.
struct AnyDivision {
  static constexpr bool checked = true;
  template <typename T>
  static SSD_OPS_HD T divide(T numerator, T denominator) {
    return numerator / denominator;
  }
};

// numerator / denominator, 0 if the denominator is 0.
template <typename T>
SSD_OPS_HD T ratio(T numerator, T denominator) {
  const T quotient = numerator / denominator;
  return denominator == T(0) ? T(0) : quotient;
}

// IoU from the areas of intersection and union, 0 for an empty union. On a GPU, where a division by or of 0 is slow,
// boxes that do not overlap are not divided; only the sign of a zero can differ.
template <typename Division = AnyDivision, typename T>
SSD_OPS_HD T iou_of_areas(T inter, T union_area) {
  if constexpr (!Division::checked) return Division::divide(inter, union_area);
#if defined(__CUDA_ARCH__) || defined(SSD_OPS_EMULATED)
  if (inter > T(0)) return inter / union_area;
  return union_area == union_area ? T(0) : union_area;
#else
  return ratio(inter, union_area);
#endif
}

// Intersection over union, as the IoU matrices have it.
template <typename Division = AnyDivision, typename T>
SSD_OPS_HD T iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  return iou_of_areas<Division>(inter, area_a + area_b - inter);
}

// Intersection over union for matching: 0 instead of NaN.
template <typename T>
SSD_OPS_HD T matching_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  return clamp_to_zero(iou(a, b, area_a, area_b));
}

// Intersection over union for suppression: NaN for an empty union, as in torchvision, so that it suppresses nothing.
template <typename T>
SSD_OPS_HD T suppression_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  return inter / (area_a + area_b - inter);
}

// The sides of the smallest box that encloses both; at least 0.
template <typename T>
SSD_OPS_HD void enclosing_sides(const Box<T>& a, const Box<T>& b, T* width, T* height) {
  *width = clamp_to_zero(greater(a.x2, b.x2) - lesser(a.x1, b.x1));
  *height = clamp_to_zero(greater(a.y2, b.y2) - lesser(a.y1, b.y1));
}

// In the denominators of distance and complete IoU, as in torchvision.
template <typename T>
SSD_OPS_HD constexpr T iou_epsilon() {
  return T(1e-7);
}

// IoU minus the fraction of the enclosing box that the union does not cover.
template <typename T>
SSD_OPS_HD T generalized_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  const T union_area = area_a + area_b - inter;
  T width, height;
  enclosing_sides(a, b, &width, &height);
  const T enclosing = width * height;
  return iou_of_areas(inter, union_area) - ratio(enclosing - union_area, enclosing);
}

// The squared distance of the centers over the squared diagonal of the enclosing box; distance IoU is IoU minus that.
template <typename Division = AnyDivision, typename T>
SSD_OPS_HD T center_distance(const Box<T>& a, const Box<T>& b) {
  T width, height;
  enclosing_sides(a, b, &width, &height);
  const T diagonal = width * width + height * height + iou_epsilon<T>();
  const T dx = (a.x1 + a.x2) / T(2) - (b.x1 + b.x2) / T(2);
  const T dy = (a.y1 + a.y2) / T(2) - (b.y1 + b.y2) / T(2);
  return Division::divide(dx * dx + dy * dy, diagonal);
}

template <typename T>
SSD_OPS_HD T distance_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  return iou(a, b, area_a, area_b) - center_distance(a, b);
}

// atan(width / height), 0 for a point: the aspect ratio as complete IoU compares it.
template <typename T>
SSD_OPS_HD T aspect_angle(const Box<T>& a) {
  const T width = a.x2 - a.x1, height = a.y2 - a.y1;
  return width == T(0) && height == T(0) ? T(0) : std::atan(width / height);
}

// The penalty of complete IoU for different aspect angles (0 to 1), and its weight.
template <typename T>
SSD_OPS_HD constexpr T aspect_factor() {
  return T(4 / (3.14159265358979323846 * 3.14159265358979323846));
}
template <typename T>
SSD_OPS_HD T aspect_penalty(T angle_a, T angle_b) {
  const T difference = angle_a - angle_b;
  return aspect_factor<T>() * difference * difference;
}
template <typename Division = AnyDivision, typename T>
SSD_OPS_HD T aspect_weight(T penalty, T overlap) {
  return Division::divide(penalty, T(1) - overlap + penalty + iou_epsilon<T>());
}

// Distance IoU minus the weighted penalty for different aspect angles.
template <typename Division = AnyDivision, typename T>
SSD_OPS_HD T complete_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b, T angle_a, T angle_b) {
  const T penalty = aspect_penalty(angle_a, angle_b);
  const T overlap = iou<Division>(a, b, area_a, area_b);
  return overlap - center_distance<Division>(a, b) - aspect_weight<Division>(penalty, overlap) * penalty;
}

enum class IouMetric { iou, generalized, distance, complete };

// How a box is encoded relative to a prior; the three code types of Caffe SSD.
enum class CodeType { center_size, corner, corner_size };

// Of (x, y, width, height) for center_size, else of the four coordinates.
template <typename T>
struct Variances {
  T v[4];
};
template <typename T>
Variances<T> variances_of(const double* v) {
  return {{static_cast<T>(v[0]), static_cast<T>(v[1]), static_cast<T>(v[2]), static_cast<T>(v[3])}};
}

// log(1000 / 16): a decoded side is at most 62.5 times the prior's.
template <typename T>
SSD_OPS_HD constexpr T max_log_size() {
  return T(4.135166556742356);
}

// Where encode and decode take exp and log from. CPU kernels give cpu::VecMath (cpu/common/vec_math.h) instead, which
// the compiler can put into vectors.
struct LibraryMath {
  template <typename T>
  static SSD_OPS_HD T exp(T x) {
    return std::exp(x);
  }
  template <typename T>
  static SSD_OPS_HD T log(T x) {
    return std::log(x);
  }
};

template <typename Math = LibraryMath, typename T>
SSD_OPS_HD Box<T> encode(const Box<T>& box, const Box<T>& prior, CodeType code, const Variances<T>& var) {
  const T prior_w = prior.x2 - prior.x1, prior_h = prior.y2 - prior.y1;
  if (code == CodeType::center_size) {
    const T dx = (box.x1 + box.x2) / T(2) - (prior.x1 + prior.x2) / T(2);
    const T dy = (box.y1 + box.y2) / T(2) - (prior.y1 + prior.y2) / T(2);
    const T w = box.x2 - box.x1, h = box.y2 - box.y1;
    return {dx / prior_w / var.v[0], dy / prior_h / var.v[1], Math::log(w / prior_w) / var.v[2],
            Math::log(h / prior_h) / var.v[3]};
  }
  const T x1 = box.x1 - prior.x1, y1 = box.y1 - prior.y1, x2 = box.x2 - prior.x2, y2 = box.y2 - prior.y2;
  if (code == CodeType::corner) return {x1 / var.v[0], y1 / var.v[1], x2 / var.v[2], y2 / var.v[3]};
  return {x1 / prior_w / var.v[0], y1 / prior_h / var.v[1], x2 / prior_w / var.v[2], y2 / prior_h / var.v[3]};
}

// exp(log_size), log_size clamped to its maximum; NaN stays.
template <typename Math, typename T>
SSD_OPS_HD T decoded_size(T log_size) {
  return Math::exp(log_size > max_log_size<T>() ? max_log_size<T>() : log_size);
}

template <typename Math = LibraryMath, typename T>
SSD_OPS_HD Box<T> decode(const Box<T>& delta, const Box<T>& prior, CodeType code, const Variances<T>& var) {
  const T prior_w = prior.x2 - prior.x1, prior_h = prior.y2 - prior.y1;
  const T a = delta.x1 * var.v[0], b = delta.y1 * var.v[1], c = delta.x2 * var.v[2], d = delta.y2 * var.v[3];
  if (code == CodeType::center_size) {
    const T cx = a * prior_w + (prior.x1 + prior.x2) / T(2), cy = b * prior_h + (prior.y1 + prior.y2) / T(2);
    const T half_w = decoded_size<Math>(c) * prior_w / T(2);
    const T half_h = decoded_size<Math>(d) * prior_h / T(2);
    return {cx - half_w, cy - half_h, cx + half_w, cy + half_h};
  }
  if (code == CodeType::corner) return {prior.x1 + a, prior.y1 + b, prior.x2 + c, prior.y2 + d};
  return {prior.x1 + a * prior_w, prior.y1 + b * prior_h, prior.x2 + c * prior_w, prior.y2 + d * prior_h};
}

}  // namespace ssd_ops
