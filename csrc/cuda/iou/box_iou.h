// The matrices of the IoU family on the GPU; torch-free.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/dtype.h"

namespace ssd_ops {

// out[b, n, m] of boxes1[b, n] and boxes2[b, m]; both dense, aligned to a box, of one dtype. `out` is float, or double
// for double boxes.
int launch_box_iou(Dtype dtype, const void* boxes1, const void* boxes2, void* out, int64_t batch, int64_t n, int64_t m,
                   IouMetric metric, CUstream_st* stream);

}  // namespace ssd_ops
