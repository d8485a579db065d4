// Detections from the raw outputs of a detector on the CPU.
#pragma once

#include "core/detections.h"
#include "core/levels.h"
#include "cpu/dispatch/dispatch.h"
#include "cpu/select/segments.h"

namespace ssd_ops::cpu {

template <typename T>
struct DetectParams {
  SelectParams<T> select;  // its scores are null, and its dtype is that of the logits
  Segments segments;
  Levels levels;
  LevelPointers<const void> logits;  // rows of C
  LevelPointers<const Box<T>> loc;
  const Box<T>* priors;  // [P]
  Variances<T> variances;
  bool clip;
  bool best_only;  // only the class with the highest logit of each prior, unless that is the background
};

}  // namespace ssd_ops::cpu

// See Segments; begin and end count the segments of all images.
SSD_OPS_CPU_KERNEL(void, scan_logits, const DetectParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, scan_logits, const DetectParams<double>& params, int64_t begin, int64_t end)
// Fills the detections of images begin .. end - 1.
SSD_OPS_CPU_KERNEL(void, detect, const DetectParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, detect, const DetectParams<double>& params, int64_t begin, int64_t end)
