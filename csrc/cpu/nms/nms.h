// Non-maximum suppression on the CPU: the order of scores, groups of classes, and the suppression within a group.
#pragma once

#include <cstdint>

#include "core/suppression.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

template <typename T>
struct NmsTask {
  const Box<T>* boxes;    // [N]
  const uint32_t* order;  // [N]: order[r] is the box of rank r
  SuppressionRule<T> rule;
};

}  // namespace ssd_ops::cpu

// order[r] is the index of the r-th score: falling, NaN first, of equals the lowest index. n is below 2^32.
SSD_OPS_CPU_KERNEL(void, order_by_score, const float* scores, int64_t n, uint32_t* order)
SSD_OPS_CPU_KERNEL(void, order_by_score, const double* scores, int64_t n, uint32_t* order)
// Fills members [N] and starts [groups + 1] (room for N + 1), and returns the number of groups: those of equal class.
SSD_OPS_CPU_KERNEL(int64_t, group_by_class, const int64_t* classes, const uint32_t* order, int64_t n, uint32_t* members,
                   uint32_t* starts)
// Fills kept [K], room for N: kept[i] is the i-th kept box; returns K.
SSD_OPS_CPU_KERNEL(int64_t, suppress_all, const NmsTask<float>& task, int64_t n, uint32_t* kept)
SSD_OPS_CPU_KERNEL(int64_t, suppress_all, const NmsTask<double>& task, int64_t n, uint32_t* kept)
// Suppresses within one group, members begin .. end - 1, ranks that rise: keep[r] is whether the box of rank r is kept.
SSD_OPS_CPU_KERNEL(void, suppress_group, const NmsTask<float>& task, const uint32_t* members, int64_t begin,
                   int64_t end, uint8_t* keep)
SSD_OPS_CPU_KERNEL(void, suppress_group, const NmsTask<double>& task, const uint32_t* members, int64_t begin,
                   int64_t end, uint8_t* keep)
