// What prior matching on the CPU and on the GPU share.
#pragma once

#include "core/box.h"

namespace ssd_ops {

// Which priors are assigned to a ground truth besides those that reach the threshold, see ssd_ops.match_priors.
enum class MatchRule { greedy, last, none };

// While priors are being assigned, gt_index itself holds the assignment: encode_assigned(gt) for a prior that is
// assigned to ground truth `gt` of its image; any value of -1 or more (a match by threshold) for a prior that is not.
SSD_OPS_HD int64_t encode_assigned(int64_t gt) { return -2 - gt; }
// The ground truth that a prior is assigned to, -1 for none.
SSD_OPS_HD int64_t decode_assigned(int64_t gt_index) { return gt_index <= -2 ? -2 - gt_index : -1; }

}  // namespace ssd_ops
