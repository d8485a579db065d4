// The only box arithmetic: a box, its area, the overlap of two, and the codes between boxes and priors.
//
// Plain C++ for host and device. Every compiler is told not to contract a * b + c and not to reorder, so that all
// instruction sets and GPUs give the bits of the reference (ssd_ops/reference) wherever no exp, log or atan is
// involved.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define SSD_OPS_HD __host__ __device__ __forceinline__
#else
#define SSD_OPS_HD inline __attribute__((always_inline))
#endif

namespace ssd_ops {

// xyxy. Aligned to its size, so that a box is one vector load; tensors' storage is aligned to 64 bytes and a view that
// starts elsewhere still starts at a row, see check.h.
template <typename T>
struct alignas(4 * sizeof(T)) Box {
  T x1, y1, x2, y2;
};

// a where they are equal, and b where one is NaN: the minimum and maximum of SSE, one instruction each. A GPU has
// another instruction for floats, which takes the one that is no NaN, and -0 for less than 0; so callers may rely on b
// where a is NaN, and else neither on NaN nor on the sign of a zero. The tests' emulator takes the GPU's way with NaN.
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

// x, but at least 0; NaN becomes 0. Where a side is NaN an area of its boxes is NaN too, so no NaN is lost.
template <typename T>
SSD_OPS_HD T at_least_zero(T x) {
  return x > T(0) ? x : T(0);
}

template <typename T>
SSD_OPS_HD T area(const Box<T>& a) {
  return (a.x2 - a.x1) * (a.y2 - a.y1);
}

template <typename T>
SSD_OPS_HD T intersection(const Box<T>& a, const Box<T>& b) {
  const T width = at_least_zero(lesser(a.x2, b.x2) - greater(a.x1, b.x1));
  const T height = at_least_zero(lesser(a.y2, b.y2) - greater(a.y1, b.y1));
  return width * height;
}

// Whether a side is less than `least`, or NaN; never where `least` is 0.
template <typename T>
SSD_OPS_HD bool too_small(const Box<T>& a, T least) {
  return least > T(0) && !(a.x2 - a.x1 >= least && a.y2 - a.y1 >= least);
}

// 0 where the denominator is 0.
template <typename T>
SSD_OPS_HD T ratio(T numerator, T denominator) {
  const T quotient = numerator / denominator;
  return denominator == T(0) ? T(0) : quotient;
}

// Intersection over union of an intersection and a union: 0 for an empty union. A GPU, on which a numerator of 0 makes
// a division slow, is spared that of boxes that share nothing; the sign of a zero may differ.
template <typename T>
SSD_OPS_HD T iou_of(T inter, T both) {
#if defined(__CUDA_ARCH__) || defined(SSD_OPS_EMULATED)
  if (inter > T(0)) return inter / both;
  return both == both ? T(0) : both;
#else
  return ratio(inter, both);
#endif
}

// Intersection over union for the matrices and for matching.
template <typename T>
SSD_OPS_HD T iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  return iou_of(inter, area_a + area_b - inter);
}

// Intersection over union for suppression: NaN for an empty union, as in torchvision, so that it suppresses nothing.
template <typename T>
SSD_OPS_HD T suppression_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  return inter / (area_a + area_b - inter);
}

// Thresholds are given in double and values are compared in double, so no threshold is rounded. For float values that
// equals a comparison with a float: value > threshold just where value > float_below(threshold), and value >= threshold
// just where value >= float_above(threshold).
inline float float_below(double threshold) {  // the largest float that is not above
  const float f = static_cast<float>(threshold);
  return static_cast<double>(f) > threshold ? std::nextafterf(f, -INFINITY) : f;
}
inline float float_above(double threshold) {  // the smallest float that is not below
  const float f = static_cast<float>(threshold);
  return static_cast<double>(f) < threshold ? std::nextafterf(f, INFINITY) : f;
}
template <typename T>
inline T threshold_below(double threshold) {
  if constexpr (sizeof(T) == sizeof(float)) return float_below(threshold);
  return static_cast<T>(threshold);
}
template <typename T>
inline T threshold_above(double threshold) {
  if constexpr (sizeof(T) == sizeof(float)) return float_above(threshold);
  return static_cast<T>(threshold);
}

// The smallest box around two; its sides are at least 0.
template <typename T>
SSD_OPS_HD void enclosing_sides(const Box<T>& a, const Box<T>& b, T* width, T* height) {
  *width = at_least_zero(greater(a.x2, b.x2) - lesser(a.x1, b.x1));
  *height = at_least_zero(greater(a.y2, b.y2) - lesser(a.y1, b.y1));
}

// In the denominators of distance and complete IoU, as in torchvision.
template <typename T>
SSD_OPS_HD constexpr T iou_epsilon() {
  return T(1e-7);
}

// IoU less the share of the enclosing box that neither covers.
template <typename T>
SSD_OPS_HD T generalized_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  const T both = area_a + area_b - inter;
  T width, height;
  enclosing_sides(a, b, &width, &height);
  const T enclosing = width * height;
  return iou_of(inter, both) - ratio(enclosing - both, enclosing);
}

// IoU less the squared distance of the centers over the squared diagonal of the enclosing box.
template <typename T>
SSD_OPS_HD T distance_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  T width, height;
  enclosing_sides(a, b, &width, &height);
  const T diagonal = width * width + height * height + iou_epsilon<T>();
  const T dx = (a.x1 + a.x2) / T(2) - (b.x1 + b.x2) / T(2);
  const T dy = (a.y1 + a.y2) / T(2) - (b.y1 + b.y2) / T(2);
  return iou(a, b, area_a, area_b) - (dx * dx + dy * dy) / diagonal;
}

// atan(width / height), 0 for a point: what complete IoU compares of two boxes.
template <typename T>
SSD_OPS_HD T aspect_angle(const Box<T>& a) {
  const T width = a.x2 - a.x1, height = a.y2 - a.y1;
  return width == T(0) && height == T(0) ? T(0) : std::atan(width / height);
}

// The penalty of complete IoU for unlike aspect angles, 0 to 1, and its weight.
template <typename T>
SSD_OPS_HD constexpr T aspect_factor() {
  return T(4 / (3.14159265358979323846 * 3.14159265358979323846));
}
template <typename T>
SSD_OPS_HD T aspect_penalty(T angle_a, T angle_b) {
  const T apart = angle_a - angle_b;
  return aspect_factor<T>() * apart * apart;
}
template <typename T>
SSD_OPS_HD T aspect_weight(T penalty, T overlap) {
  return penalty / (T(1) - overlap + penalty + iou_epsilon<T>());
}

// Distance IoU less the weighted penalty for unlike aspect angles.
template <typename T>
SSD_OPS_HD T complete_iou(const Box<T>& a, const Box<T>& b, T area_a, T area_b, T angle_a, T angle_b) {
  const T penalty = aspect_penalty(angle_a, angle_b);
  const T weight = aspect_weight(penalty, iou(a, b, area_a, area_b));
  return distance_iou(a, b, area_a, area_b) - weight * penalty;
}

// The four measures of the family.
enum class IouMetric { iou, generalized, distance, complete };

// How a box is written relative to a prior; the three codes of Caffe SSD.
enum class CodeType { center_size, corner, corner_size };

// Four numbers in the order of a box: (x, y, width, height) for center_size, else corners.
template <typename T>
struct Variances {
  T v[4];
};

// log(1000 / 16): decoded sizes stop at 62.5 times the prior's.
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

// exp of the log of a size ratio, stopped at the maximum; NaN stays.
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
