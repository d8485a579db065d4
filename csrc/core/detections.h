// Detections of a batch: what multiclass_nms, soft_nms and detect share on the CPU and on the GPU.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/suppression.h"

namespace ssd_ops {

// Candidates of an image that are held at once at first; see cpu/select/select.h.
constexpr int64_t kPageItems = 8192;

// Padded to D detections for each of B images; detections behind the last one are 0.
template <typename T>
struct DetectionsOut {
  T* boxes;         // [B, D, 4]
  T* scores;        // [B, D]
  int64_t* labels;  // [B, D]
  int64_t* counts;  // [B]
  int64_t* rows;    // [B, D]: which of the N rows of its image a detection came from
  int64_t most;     // D
};

template <typename T>
struct SelectTask {
  const void* scores;  // [B, N, C]: scores or logits, of type dtype
  Dtype dtype;
  int64_t rows, classes;  // N, C; N * C is below 2^32
  T floor;                // the least score that is a candidate
  int64_t candidates_per_class;
  SuppressionRule<T> rule;
  T least_side;  // boxes with a shorter side are no candidates; 0: all are
  DetectionsOut<T> out;
  // Where there are fewer images than threads: the rows of an image are scanned in `parts`, and a part leaves its
  // candidates in part_bytes() of `lists` (aligned to 64), before the images are finished.
  int64_t parts;
  char* lists;
};

constexpr int64_t part_bytes() { return 128 + kPageItems * 16; }

}  // namespace ssd_ops
