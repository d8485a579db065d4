// The workspace that the kernels of the training loss share.
#pragma once

#include "core/loss.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {

// The radix select of an image that several blocks mine.
struct MiningState {
  unsigned long long positives, background;
  uint64_t prefix;            // the leading digits of the threshold key that are known
  int64_t remaining_k;        // how many keys with this prefix are selected; 0: none of the image
  unsigned ticket;            // see is_last_block
  unsigned selects_all_ties;  // whether all keys equal to the threshold are selected
};

struct LossWorkspace {
  unsigned* ticket;          // of the last kernel, see is_last_block
  int64_t* positives;        // [num_row_blocks], counted by each block of the first kernel
  double* sums;              // [blocks of the last kernel, 2]: loc and cls, divided by the normalizer
  MiningState* mining;       // [B]; this and the rest only if several blocks mine an image
  unsigned* counts;          // [B, kBins]
  unsigned* segment_counts;  // [B, segments, kBins]
  int64_t num_row_blocks;
  int64_t* zeroed_words;  // [num_zeroed_words]: `mining` and `counts`, which are 0 before mining begins
  int64_t num_zeroed_words;
};

}  // namespace
}  // namespace ssd_ops
