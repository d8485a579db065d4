// The matrices of the IoU family on the CPU.
#pragma once

#include <cstdint>

#include "box.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

// One [N, M] matrix. The columns stand as separate arrays, so that a vector holds many boxes.
template <typename T>
struct IouTask {
  const T* rows;     // [N, 4] xyxy
  const T* columns;  // [6, M]: x1, y1, x2, y2, area, aspect angle (read for the complete metric only)
  T* out;            // [N, M]: out[n, m] belongs to row n and column m
  int64_t m;
  IouMetric metric;
};

}  // namespace ssd_ops::cpu

// Fills columns [6, M] from boxes [M, 4].
SSD_OPS_CPU_KERNEL(void, iou_columns, const float* boxes, int64_t m, bool angles, float* columns)
SSD_OPS_CPU_KERNEL(void, iou_columns, const double* boxes, int64_t m, bool angles, double* columns)
// Fills rows begin .. end - 1 of the matrix.
SSD_OPS_CPU_KERNEL(void, iou_rows, const IouTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, iou_rows, const IouTask<double>& task, int64_t begin, int64_t end)
