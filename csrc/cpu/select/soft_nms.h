// Soft-NMS on the CPU: each class by itself, then the best over the classes.
#pragma once

#include "core/soft_nms.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

constexpr int64_t kSoftClasses = 16;  // classes that are gathered together: a cache line of scores

}  // namespace ssd_ops::cpu

// Runs the class groups begin .. end - 1 of all images: ceil(C / kSoftClasses) an image.
SSD_OPS_CPU_KERNEL(void, soft_nms_classes, const SoftTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, soft_nms_classes, const SoftTask<double>& task, int64_t begin, int64_t end)
// Fills the detections of images begin .. end - 1 from what their classes took.
SSD_OPS_CPU_KERNEL(void, soft_nms_merge, const SoftTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, soft_nms_merge, const SoftTask<double>& task, int64_t begin, int64_t end)
