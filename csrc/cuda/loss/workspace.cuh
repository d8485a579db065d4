// What the kernels of the training loss share.
#pragma once

#include "core/loss.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {

// How the first kernel divides the rows of an image into tiles.
struct RowPlan {
  int rows;             // of a tile; those of a tile belong to one image and one level
  int lanes;            // how many lanes sum a row together
  size_t shared_bytes;  // of the logits of a tile; 0: they are not staged
  int64_t tiles_per_image;
};

// Counts and sums of the rows of a tile.
struct TileCounts {
  unsigned positives, background;
};
struct TileSums {
  double loc, cls;  // of the positives, not yet divided by the normalizer
};

// The radix select of an image that several blocks mine.
struct MiningState {
  uint64_t prefix;            // the leading digits of the threshold key that are known
  int64_t remaining_k;        // how many keys with this prefix are selected; 0: none of the image
  unsigned ticket;            // see is_last_block
  unsigned selects_all_ties;  // whether all keys equal to the threshold are selected
};

struct LossWorkspace {
  unsigned* ticket;  // of the last kernel, see is_last_block
  TileCounts*
      tile_counts;  // [num_tiles], those of an image one after another, as are its rows with mining over the batch
  TileSums* tile_sums;
  double* sums;              // [blocks of the last kernel, 2]: loc and cls, divided by the normalizer
  MiningState* mining;       // [B]; this and the rest only if several blocks mine an image
  unsigned* counts;          // [B, kBins]
  unsigned* segment_counts;  // [B, segments, kBins]
  int64_t num_tiles;
  int64_t* zeroed_words;  // [num_zeroed_words]: `mining` and `counts`, which are 0 before mining begins
  int64_t num_zeroed_words;
};

// Until a prior is mined, its sort key is in place of its weight: that of mining if it is background, 0 if it is
// ignored, and kPositiveKey if it is positive.
template <typename T>
__device__ __forceinline__ sort_key_t<T>* sort_keys(const LossParams& params) {
  return static_cast<sort_key_t<T>*>(params.weight);
}

// No cross entropy has this key, for none is below 0.
template <typename Key>
constexpr Key kPositiveKey = Key(1) << (8 * sizeof(Key) - 1);

template <typename T>
__device__ __forceinline__ sort_key_t<T> row_key(T cross_entropy, int64_t label) {
  return label > 0 ? kPositiveKey<sort_key_t<T>> : mining_key(cross_entropy, label);
}

template <typename Key>
__device__ __forceinline__ bool is_background(Key key) {
  return key != 0 && key != kPositiveKey<Key>;
}

// The cross entropy of a background prior.
template <typename T>
__device__ __forceinline__ T cross_entropy_of(sort_key_t<T> key) {
  return key == ~sort_key_t<T>(0) ? T(NAN) : from_bits<T>(key - 1);
}

}  // namespace
}  // namespace ssd_ops
