// The scratch memory that the kernels of the training loss share.
#pragma once

#include "core/loss.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {

// Of an image that several blocks mine.
struct ImageMining {
  unsigned long long positives, background;
  uint64_t prefix;     // the digits of the cut that are known
  int64_t left;        // keys wanted of those that begin so; 0: none of all
  unsigned ticket;     // see is_last_block
  unsigned every_tie;  // all of those are wanted
};

struct LossScratch {
  unsigned* finished;     // blocks of the last kernel
  int64_t* positives;     // [row_blocks], counted by each block of the first kernel
  double* sums;           // [blocks of the last kernel, 2], of boxes and of classes, divided by the normalizer
  ImageMining* mining;    // [B]; this and the rest only where several blocks mine an image
  unsigned* counts;       // [B, 2048]
  unsigned* part_counts;  // [B, parts, 2048]
  int64_t row_blocks;
  int64_t* zeros;  // what must be 0 before mining begins
  int64_t zero_words;
};

}  // namespace
}  // namespace ssd_ops
