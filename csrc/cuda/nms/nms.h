// Non-maximum suppression of one set of boxes on the GPU; torch-free.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace ssd_ops {

// Up to kMaxFew boxes every pair is compared. Up to kMaxChunk boxes are resolved at once; more, in the order of their
// scores, chunk after chunk.
constexpr int64_t kMaxFew = 2048, kMaxChunk = 10240;

struct NmsInputs {
  const void* boxes;  // [num_boxes, 4] of box_type
  Dtype box_type;
  const void* scores;  // [num_boxes] of score_type
  Dtype score_type;
  const int64_t* classes;  // [num_boxes] or null
  int64_t num_boxes;       // above 0
};

// What the host reads to know whether boxes are left; in memory that host and device share.
struct NmsProgress {
  int64_t num_kept;        // kept boxes so far
  int64_t may_have_chunk;  // 0 when all is done
};

// Bytes of workspace, a multiple of 256: up to 13 MB, and for more than kMaxChunk boxes 65 a box on top of that.
size_t nms_workspace_bytes(int64_t num_boxes);

// Processes `num_chunks` chunks of boxes from number `first_chunk` on; a chunk that is not there costs little. Fills
// keep (capacity num_boxes) with the indices of the kept boxes by descending score, NaN first, ties by index, and
// *progress. For more than kMaxChunk boxes `order` [num_boxes] has the indices of all boxes in that order, else it is
// not read, and there is one chunk. The workspace is aligned to 256 bytes and keeps its contents from call to call.
int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, const int64_t* order, int64_t first_chunk,
               int64_t num_chunks, int64_t* keep, NmsProgress* progress, CUstream_st* stream);

}  // namespace ssd_ops
