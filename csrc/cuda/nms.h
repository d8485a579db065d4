// Non-maximum suppression of one set of boxes on the GPU; torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/dtype.h"

namespace ssd_ops {

// Bytes of workspace for n boxes: some 90 a box and half a megabyte.
size_t nms_workspace_bytes(int64_t n);

// Scores that launch_nms_order takes at most.
constexpr int64_t kMostSorted = 2048;

// Fills order [n] with the index of each rank: by falling score, NaN first, of equals the lowest index. n is above 0.
int launch_nms_order(Dtype dtype, const void* scores, int64_t n, int64_t* order, CUstream_st* stream);

// Fills keep (room for n) with the indices of the kept boxes by rank and *kept with their number. `order` [n] is the
// box of each rank; `classes` [n] may be null. The workspace is aligned to 256 bytes. n is above 0.
int launch_nms(Dtype dtype, const void* boxes, const int64_t* order, const int64_t* classes, int64_t n,
               double iou_threshold, void* workspace, int64_t* keep, int64_t* kept, CUstream_st* stream);

}  // namespace ssd_ops
