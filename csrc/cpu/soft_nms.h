// Soft-NMS on the CPU: each class by itself, then the best over the classes.
#pragma once

#include "cpu/detections.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

constexpr int64_t kSoftClasses = 16;  // classes that are gathered together: a cache line of scores

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

}  // namespace ssd_ops::cpu

// Runs the class groups begin .. end - 1 of all images: ceil(C / kSoftClasses) an image.
SSD_OPS_CPU_KERNEL(void, soft_nms_classes, const SoftTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, soft_nms_classes, const SoftTask<double>& task, int64_t begin, int64_t end)
// Fills the detections of images begin .. end - 1 from what their classes took.
SSD_OPS_CPU_KERNEL(void, soft_nms_merge, const SoftTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, soft_nms_merge, const SoftTask<double>& task, int64_t begin, int64_t end)
