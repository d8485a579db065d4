// Non-maximum suppression of one set of boxes on the GPU; torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/dtype.h"

namespace ssd_ops {

// Boxes that launch_nms itself ranks at most: counting compares every score with every other.
constexpr int64_t kMostRanked = 12288;

struct NmsInputs {
  const void* boxes;  // [count, 4] of box_type
  Dtype box_type;
  const void* scores;  // [count] of score_type; null: `order` says it all
  Dtype score_type;
  const int64_t* classes;  // [count] or null
  int64_t count;           // above 0
};

// Bytes of workspace for n boxes: some 90 a box and half a megabyte.
size_t nms_workspace_bytes(int64_t n);

// Fills keep (room for count) with the indices of the kept boxes by rank and *kept with their number. `order` [count]
// is the box of each rank: by falling score, NaN first, of equals the lowest index. Where there are scores, for at most
// kMostRanked boxes, it is filled here. The workspace is aligned to 256 bytes.
int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* order, int64_t* keep, int64_t* kept,
               CUstream_st* stream);

}  // namespace ssd_ops
