// The training loss on the CPU: cross entropy of every row (a prior of an image), then hard negative mining and sums of
// every image.
#pragma once

#include <cstdint>

#include "core/loss.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

struct ImageSums {
  double loc, cls;  // of the sampled priors, not yet divided by the normalizer
};

}  // namespace ssd_ops::cpu

// Fills the cross entropies of rows begin .. end - 1 of the B * P rows, level after level. Returns false if a label
// is out of range; the cross entropy of that row is then that of the background.
SSD_OPS_CPU_KERNEL(bool, loss_rows, const LossParams& params, int64_t begin, int64_t end)
// The number of positives of one image.
SSD_OPS_CPU_KERNEL(int64_t, loss_positives, const LossParams& params, int64_t image)
// Replaces the cross entropies of one image by weights, 1 / divisor for sampled priors and 0 for others, and sums the
// losses of the sampled priors.
SSD_OPS_CPU_KERNEL(ImageSums, loss_image, const LossParams& params, const Mining& mining, int64_t image, double divisor)
