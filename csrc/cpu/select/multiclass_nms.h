// Detections from scores and boxes on the CPU.
#pragma once

#include "core/detections.h"
#include "cpu/dispatch/dispatch.h"
#include "cpu/select/segments.h"

namespace ssd_ops::cpu {

template <typename T>
struct MulticlassParams {
  SelectParams<T> select;
  Segments segments;
  const Box<T>* boxes;  // [B, N], or [B, N, C]
  bool boxes_by_class;
};

}  // namespace ssd_ops::cpu

// See Segments; begin and end count the segments of all images.
SSD_OPS_CPU_KERNEL(void, scan_scores, const MulticlassParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, scan_scores, const MulticlassParams<double>& params, int64_t begin, int64_t end)
// Fills the detections of images begin .. end - 1.
SSD_OPS_CPU_KERNEL(void, multiclass_nms, const MulticlassParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, multiclass_nms, const MulticlassParams<double>& params, int64_t begin, int64_t end)
