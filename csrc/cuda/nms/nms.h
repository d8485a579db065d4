// Non-maximum suppression of one set of boxes on the GPU; torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace ssd_ops {

// The maximum number of boxes that launch_nms sorts by itself: it compares every score with every other. Fewer where
// unmeasured.h is switched on, see max_ranked().
constexpr int64_t kMaxRanked = 12288;

// Up to kMaxFew boxes are not sorted at all: every pair is compared. Up to kMaxChunk boxes without classes (with
// classes, too, where unmeasured.h is switched on) are resolved at once, and only those that are kept are sorted.
constexpr int64_t kMaxFew = 2048, kMaxChunk = 10240;

// Up to so many boxes are resolved range after range (ranges.cuh) where unmeasured.h is switched on.
constexpr int64_t kMaxInRanges = 131072;

struct NmsInputs {
  const void* boxes;  // [num_boxes, 4] of box_type
  Dtype box_type;
  const void* scores;  // [num_boxes] of score_type, or null: `order` is given (for more than max_ranked() boxes only)
  Dtype score_type;
  const int64_t* classes;  // [num_boxes] or null
  int64_t num_boxes;       // above 0
};

// What the host reads to know whether boxes are left; in memory that host and device share.
struct NmsProgress {
  int64_t num_kept;        // kept boxes so far
  int64_t next_tile_size;  // boxes in the next tile; 0 when all is done
};

// Bytes of workspace, a multiple of 256: at most 14 MB up to kMaxChunk boxes that are resolved at once, else at most
// 0.7 MB and 77 a box (11 MB and 55 a box where they are resolved range after range).
size_t nms_workspace_bytes(int64_t num_boxes, bool has_classes);

// Up to how many boxes launch_nms sorts by itself.
int64_t max_ranked();

// The number of tiles (or ranges) that suffices for any boxes, and how many to launch before checking whether boxes are
// left.
int64_t num_nms_tiles(int64_t num_boxes);
int64_t nms_tiles_per_check(int64_t num_boxes);

// Processes `num_tiles` tiles from number `first_tile` on; the call with first_tile 0 sorts the boxes before. Fills
// keep (capacity num_boxes) with the indices of the kept boxes by rank, and *progress. order [num_boxes] is the index
// of the box of each rank: descending scores, NaN first, ties to the lowest index. If scores are given, for at most
// max_ranked() boxes, it is filled here. The workspace is aligned to 256 bytes and, like `order`, keeps its contents
// from call to call.
int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* order, int64_t first_tile,
               int64_t num_tiles, int64_t* keep, NmsProgress* progress, CUstream_st* stream);

}  // namespace ssd_ops
