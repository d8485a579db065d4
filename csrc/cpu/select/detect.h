// Detections from raw outputs of a detector on the CPU.
#pragma once

#include "core/detections.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

template <typename T>
struct DetectTask {
  SelectTask<T> select;  // its scores are logits
  const Box<T>* loc;     // [B, P]
  const Box<T>* priors;  // [P]
  Variances<T> variances;
  bool clip;
  bool best_only;  // of each prior only the class with the highest logit, if that is not the background
};

}  // namespace ssd_ops::cpu

// See SelectTask::parts; begin and end count the parts of all images.
SSD_OPS_CPU_KERNEL(void, scan_logits, const DetectTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, scan_logits, const DetectTask<double>& task, int64_t begin, int64_t end)
// Fills the detections of images begin .. end - 1.
SSD_OPS_CPU_KERNEL(void, detect, const DetectTask<float>& task, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, detect, const DetectTask<double>& task, int64_t begin, int64_t end)
