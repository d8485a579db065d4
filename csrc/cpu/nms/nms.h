// Non-maximum suppression of one set of boxes on the CPU: the order of the scores, groups of equal class, and the
// suppression within a group.
#pragma once

#include "core/suppression.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

template <typename T>
struct NmsParams {
  const Box<T>* boxes;    // [N]
  const uint32_t* order;  // [N]: order[rank] is the index of the box of that rank
  SuppressionThresholds<T> thresholds;
};

}  // namespace ssd_ops::cpu

// Fills order [N]: descending scores, NaN first, ties to the lowest index. num_boxes is below 2^32.
SSD_OPS_CPU_KERNEL(void, order_by_score, const float* scores, int64_t num_boxes, uint32_t* order)
SSD_OPS_CPU_KERNEL(void, order_by_score, const double* scores, int64_t num_boxes, uint32_t* order)
// Groups the boxes by class. Fills members [N], the ranks by group, and starts [groups + 1] (capacity N + 1); returns
// the number of groups.
SSD_OPS_CPU_KERNEL(int64_t, group_by_class, const int64_t* classes, const uint32_t* order, int64_t num_boxes,
                   uint32_t* members, uint32_t* starts)
// Fills kept [K] (capacity N) with the indices of the kept boxes by rank; returns K.
SSD_OPS_CPU_KERNEL(int64_t, suppress_all, const NmsParams<float>& params, int64_t num_boxes, uint32_t* kept)
SSD_OPS_CPU_KERNEL(int64_t, suppress_all, const NmsParams<double>& params, int64_t num_boxes, uint32_t* kept)
// Suppresses within one group, members begin .. end - 1, which are ascending ranks: keep[rank] is whether that box is
// kept.
SSD_OPS_CPU_KERNEL(void, suppress_group, const NmsParams<float>& params, const uint32_t* members, int64_t begin,
                   int64_t end, uint8_t* keep)
SSD_OPS_CPU_KERNEL(void, suppress_group, const NmsParams<double>& params, const uint32_t* members, int64_t begin,
                   int64_t end, uint8_t* keep)
