// The matrices of the IoU family on the CPU.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

// B matrices [N, M], computed in tiles of kIouRows x kIouColumns.
template <typename T>
struct IouParams {
  const T* rows;     // [B, N, 4] xyxy
  const T* columns;  // [B, M, 4] xyxy
  T* out;            // [B, N, M]: out[b, n, m] belongs to row n and column m
  int64_t n, m;
  IouMetric metric;
};

constexpr int64_t kIouRows = 64, kIouColumns = 512;

}  // namespace ssd_ops::cpu

// Fills tiles begin .. end - 1 of ceil(N / kIouRows) a strip, ceil(M / kIouColumns) strips a matrix.
SSD_OPS_CPU_KERNEL(void, iou_tiles, const IouParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, iou_tiles, const IouParams<double>& params, int64_t begin, int64_t end)
