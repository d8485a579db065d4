// Which of 32 boxes suppress one box, as the bits of a word.
#pragma once

#include "core/suppression.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;  // of the kernels of many blocks

namespace {

// Boxes in shared memory with which others are compared.
template <typename T, int size>
struct Columns {
  Box<T> boxes[size];
  T areas[size];
  int64_t classes[size];

  template <bool has_classes>
  __device__ void set(int i, const Box<T>& box, int64_t box_class) {
    boxes[i] = box;
    areas[i] = area(box);
    if (has_classes) classes[i] = box_class;
  }
};

// A box that is compared with them.
template <typename T>
struct Row {
  Box<T> box;
  T box_area;
  int64_t box_class;
};

// The thresholds, and one above which no division is needed.
template <typename T>
struct PairThresholds {
  SuppressionThresholds<T> decision;
  T sure_iou;  // above the threshold by more than all rounding errors; infinite where these are not relative
};

template <typename T>
inline PairThresholds<T> pair_thresholds(double iou_threshold) {
  const SuppressionThresholds<T> decision = suppression_thresholds<T>(iou_threshold);
  constexpr T margin = T(1) + 8 * std::numeric_limits<T>::epsilon();
  return {decision, decision.iou > T(1e-3) ? decision.iou * margin : std::numeric_limits<T>::infinity()};
}

// Which columns may suppress a row, and which of them certainly do: one bit each.
struct Suspects {
  unsigned may, sure;
};

// Sets the bits of column number `bit` of the word that begins with column `first`: no division, and no branch.
template <bool has_classes, typename T, int size>
__device__ __forceinline__ void compare_pair(const Columns<T, size>& columns, int first, int bit, const Row<T>& row,
                                             const PairThresholds<T>& thresholds, Suspects* suspects) {
  constexpr T kNormal = T(1e-30);  // of areas above this, rounding errors are relative
  const int i = first + bit;
  const T inter = intersection(columns.boxes[i], row.box), union_area = columns.areas[i] + row.box_area - inter;
  const bool may =
      (!has_classes || columns.classes[i] == row.box_class) && may_suppress(inter, union_area, thresholds.decision);
  const bool sure = may && inter > kNormal && inter > thresholds.sure_iou * union_area;  // false with a NaN
  suspects->may |= (may ? 1u : 0u) << bit;
  suspects->sure |= (sure ? 1u : 0u) << bit;
}

// The columns of the suspects that suppress the row.
template <typename T, int size>
__device__ __forceinline__ unsigned suppressing(const Columns<T, size>& columns, int first, const Suspects& suspects,
                                                const Row<T>& row, const PairThresholds<T>& thresholds) {
  unsigned bits = suspects.sure;
  for (unsigned left = suspects.may & ~suspects.sure; left != 0; left &= left - 1) {
    const int i = first + __ffs(static_cast<int>(left)) - 1;
    if (suppresses(columns.boxes[i], row.box, columns.areas[i], row.box_area, thresholds.decision))
      bits |= left & (0 - left);
  }
  return bits;
}

}  // namespace
}  // namespace ssd_ops
