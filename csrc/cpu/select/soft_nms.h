// Soft-NMS on the CPU: each class by itself, then the best over the classes.
#pragma once

#include "core/soft_nms.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

constexpr int64_t kClassGroup = 16;  // classes whose scores are gathered together: a cache line of scores

}  // namespace ssd_ops::cpu

// Runs the class groups begin .. end - 1 of all images; an image has ceil(C / kClassGroup).
SSD_OPS_CPU_KERNEL(void, soft_nms_classes, const SoftNmsParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, soft_nms_classes, const SoftNmsParams<double>& params, int64_t begin, int64_t end)
// Fills the detections of images begin .. end - 1 from what their classes have selected.
SSD_OPS_CPU_KERNEL(void, soft_nms_merge, const SoftNmsParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, soft_nms_merge, const SoftNmsParams<double>& params, int64_t begin, int64_t end)
