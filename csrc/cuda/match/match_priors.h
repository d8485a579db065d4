// Prior matching on the GPU; torch-free.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/matching.h"

namespace ssd_ops {

constexpr int64_t kWarpTile = 32;  // priors that a warp compares with an object together

inline int64_t match_tiles_on_cuda(int64_t priors) { return (priors + kWarpTile - 1) / kWarpTile; }

// One batch; everything is dense, boxes are aligned. Offsets and labels may hold anything: offsets are cut to 0 ..
// objects and made non-falling before they are used, labels are only copied.
template <typename T>
struct CudaMatchTask {
  const Box<T>* gt_boxes;    // [sum G] xyxy
  const int64_t* gt_labels;  // [sum G]
  const bool* ignore;        // [sum G] or null
  const int64_t* offsets;    // [B + 1]
  const Box<T>* priors;      // [P] xyxy
  int64_t objects;           // sum G
  int64_t batch;             // B
  int64_t count;             // P
  T threshold;               // the lowest IoU that passes
  ClaimRule rule;
  Variances<T> variances;
  Box<T>* tile_boxes;   // [ceil(P / kWarpTile)]: scratch, the box around the priors of a tile
  long long* scratch;   // [sum G + B + 1]; long long, as atomics want it
  int64_t* labels;      // [B, P]
  long long* gt_index;  // [B, P]
  Box<T>* loc_targets;  // [B, P]

  // For each object its best prior so far: IoU bits << 32 | ~prior, 0 none; then the prior that it holds, see
  // deferred_acceptance.cuh.
  SSD_OPS_HD long long* best() const { return scratch; }
  SSD_OPS_HD long long* bounds() const { return scratch + objects; }  // [B + 1]: the offsets made safe
  SSD_OPS_HD bool ignored(int64_t object) const { return ignore != nullptr && ignore[object]; }
};

int launch_match_priors(const CudaMatchTask<float>& task, CUstream_st* stream);
int launch_match_priors(const CudaMatchTask<double>& task, CUstream_st* stream);

}  // namespace ssd_ops
