// Non-maximum suppression of one set of boxes on the GPU; torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

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

// Bytes of workspace for n boxes, a multiple of 256: some 400 a box, half a megabyte at most, and 90 more a box.
size_t nms_workspace_bytes(int64_t n);

// Tiles that suffice for n boxes, and how many to launch before it is worth asking whether boxes are left.
int64_t nms_tiles(int64_t n);
constexpr int64_t kTilesAtOnce = 8;

// Takes `tiles` tiles from number `first` on; the call with `first` 0 sorts the boxes before. Fills keep (room for
// count) with the indices of the kept boxes by rank, progress[0] with their number so far, and progress[1] with the
// boxes of the next tile: 0 when all is done. `order` [count] is the box of each rank: by falling score, NaN first, of
// equals the lowest index. Where there are scores, for at most kMostRanked boxes, it is filled here. The workspace is
// aligned to 256 bytes and, like order, keeps what it holds from call to call.
int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* order, int64_t first, int64_t tiles,
               int64_t* keep, int64_t* progress, CUstream_st* stream);

}  // namespace ssd_ops
