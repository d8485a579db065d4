// The gradients of the IoU family's matrices on the CPU.
#pragma once

#include <cstdint>

#include "core/box_grad.h"
#include "cpu/iou/box_iou.h"

namespace ssd_ops::cpu {

constexpr int64_t kColumnChunk = 512;  // columns whose sums stay in the L1 cache
constexpr int64_t kRowChunk = 64;      // rows that are summed in T before they are added to the sums in double

// One [N, M] matrix in tiles of tile_rows x tile_columns, independent of the number of threads. A tile sums the
// gradients of its rows and of its columns over its pairs; grad_iou_boxes adds the sums of several tiles in order.
template <typename T>
struct GradIouParams {
  const T* grad;        // [N, M]
  const T* rows;        // [N, 4] xyxy
  const T* columns;     // [6, M], see iou_columns
  double* row_sums;     // [column tiles, 6, N]
  double* column_sums;  // [row tiles, 6, M]
  int64_t n, m, tile_rows, tile_columns;
  IouMetric metric;
};

}  // namespace ssd_ops::cpu

// Sums the gradients of tiles begin .. end - 1, numbered row by row.
SSD_OPS_CPU_KERNEL(void, grad_iou_tiles, const GradIouParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, grad_iou_tiles, const GradIouParams<double>& params, int64_t begin, int64_t end)
// Fills grads [count, 4] of boxes [count, 4] from sums [tiles, 6, count].
SSD_OPS_CPU_KERNEL(void, grad_iou_boxes, const double* sums, int64_t tiles, int64_t count, const float* boxes,
                   float* grads)
SSD_OPS_CPU_KERNEL(void, grad_iou_boxes, const double* sums, int64_t tiles, int64_t count, const double* boxes,
                   double* grads)
// Fills columns [6, M]: x1, y1, x2, y2, area, aspect angle (where `angles`), from boxes [M, 4].
SSD_OPS_CPU_KERNEL(void, iou_columns, const float* boxes, int64_t m, bool angles, float* columns)
SSD_OPS_CPU_KERNEL(void, iou_columns, const double* boxes, int64_t m, bool angles, double* columns)
