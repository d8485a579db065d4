// What prior matching on the CPU and on the GPU share.
#pragma once

#include <cstdint>

#include "core/box.h"

namespace ssd_ops {

// How objects claim priors, see ssd_ops.match_priors.
enum class ClaimRule { greedy, last, none };

// Value of gt_index while claims are settled: prior held by object g. Any value of -1 or more means that nobody holds
// it. So the result itself is the table of holders.
SSD_OPS_HD int64_t held_by(int64_t g) { return -2 - g; }
SSD_OPS_HD int64_t holder_of(int64_t index) { return index <= -2 ? -2 - index : -1; }

}  // namespace ssd_ops
