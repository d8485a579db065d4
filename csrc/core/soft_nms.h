// What soft-NMS is given, on the CPU and on the GPU.
#pragma once

#include "core/detections.h"

namespace ssd_ops {

template <typename T>
struct SoftTask {
  const void* scores;  // [B, N, C], of type dtype
  Dtype dtype;
  int64_t rows, classes;  // N, C
  const Box<T>* boxes;    // [B, N], or [B, N, C]
  bool boxes_by_class;
  bool gaussian;
  T sigma;
  T iou_threshold;  // see threshold_below
  T floor;          // the least score that lives
  DetectionsOut<T> out;
  // What each class takes, in order: counts [B, C]; scores and rows [B, C, room]; room is the lesser of N and D.
  int64_t room;
  int64_t* taken;
  T* taken_scores;
  uint32_t* taken_rows;
};

}  // namespace ssd_ops
