// The inputs and outputs of soft-NMS, on the CPU and on the GPU.
#pragma once

#include "core/detections.h"

namespace ssd_ops {

// Each class of an image selects up to `class_capacity` boxes by itself; then the best over the classes are merged.
template <typename T>
struct SoftNmsParams {
  const void* scores;  // [B, N, C] of `dtype`
  Dtype dtype;
  int64_t num_boxes, num_classes;  // N, C
  const Box<T>* boxes;             // [B, N], or [B, N, C]
  bool boxes_by_class;
  bool gaussian;
  T sigma;
  T iou_threshold;    // see round_threshold_down
  T score_threshold;  // boxes with this score or a higher one are active
  DetectionsOut<T> out;
  // What each class has selected, in order: class_counts [B, C]; the others [B, C, class_capacity].
  int64_t class_capacity;  // min(N, D)
  int64_t* class_counts;
  T* class_scores;
  uint32_t* class_box_indices;
};

}  // namespace ssd_ops
