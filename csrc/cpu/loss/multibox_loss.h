// The training loss on the CPU: cross entropy of every row, then hard negatives and sums of every image.
#pragma once

#include <cstdint>

#include "core/loss.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

struct ImageSums {
  double loc, cls;  // of the priors that take part, not yet divided by the normalizer
};

}  // namespace ssd_ops::cpu

// Fills lse and cross entropy of rows begin .. end - 1 of the B * P rows; false where a label is out of range (that
// row's cross entropy is then that of the background).
SSD_OPS_CPU_KERNEL(bool, loss_rows, const LossTask& task, int64_t begin, int64_t end)
// Positives of one image.
SSD_OPS_CPU_KERNEL(int64_t, loss_positives, const LossTask& task, int64_t image)
// Turns the cross entropies of one image into weights of 1 / norm or 0, and sums the losses of those that take part.
SSD_OPS_CPU_KERNEL(ImageSums, loss_image, const LossTask& task, const Mining& mining, int64_t image, double norm)
