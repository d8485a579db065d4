// The candidates of a chunk in shared memory, sorted, and their boxes.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/select/next_chunk.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {
namespace {

constexpr int kSelectThreads = 512;
constexpr unsigned kNoLabel = ~0u;  // the label of a box that is too small to be a candidate

// The label of a box is the index of its class.
template <typename T>
struct SortedChunk {
  static constexpr int kSize = sizeof(T) == sizeof(float) ? 512 : 256, kWords = kSize / kWarpSize;

  candidate_t<T> items[kSize];
  alignas(16) unsigned high[kSize];  // high bits of the sort keys, before they are sorted
  int num_with_rank[kSize];          // candidates with as many lower high bits as the index says
  Box<T> boxes[kSize];
  T areas[kSize];
  unsigned labels[kSize];
  unsigned box_indices[kSize];             // index of the box in its image
  unsigned label_bits[kWords][kWarpSize];  // bit b of [w][k] is bit k of the label of box 32 w + b
  unsigned active[kWords];                 // a bit for each box: not too small
};

// Where the box of a candidate is.
struct CandidateAt {
  unsigned label, box_index;  // its class, and the index of the box in the image
  int level;
  int64_t row;  // of the level
};

template <typename T>
__device__ CandidateAt locate(const BoxSource<T>& source, const SelectParams<T>& params, int64_t image,
                              unsigned index) {
  const bool by_class = source.class_box_indices != nullptr;
  const auto stride = static_cast<unsigned>(by_class ? source.class_capacity : params.num_boxes);
  const unsigned label = index / stride;  // 32 bits: half of the instructions of 64
  const unsigned box_index =
      by_class ? source.class_box_indices[image * params.num_classes * stride + index] : index - label * stride;
  const LevelRow at = level_row(source.levels, image, box_index);
  return {label, box_index, at.level, source.boxes_by_class ? at.row * params.num_classes + label : at.row};
}

// The number of candidates with fewer high bits than `own`.
template <typename T>
__device__ __forceinline__ int count_below(const SortedChunk<T>& chunk, int count, unsigned own) {
  int below = 0;
#pragma unroll 4
  for (int k = 0; k < count; k += 4) {
    const uint4 high = *reinterpret_cast<const uint4*>(&chunk.high[k]);
    below += (high.x < own ? 1 : 0) + (high.y < own ? 1 : 0) + (high.z < own ? 1 : 0) + (high.w < own ? 1 : 0);
  }
  return below;
}

// The number of low bits in which labels differ from each other and from kNoLabel.
__device__ __forceinline__ int num_label_bits(int64_t num_classes) { return 32 - __clz(static_cast<int>(num_classes)); }

// Writes the bits of the labels, and activates the boxes that are not too small.
template <typename T>
__device__ void write_label_bits(SortedChunk<T>& chunk, int count, int label_bits) {
  const int word = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  if (word * kWarpSize >= count) return;
  const unsigned label = chunk.labels[threadIdx.x], active = __ballot_sync(kFullMask, label != kNoLabel);
  if (lane == 0) chunk.active[word] = active;
  for (int k = 0; k < label_bits; ++k) {
    const unsigned bits = __ballot_sync(kFullMask, (label >> k & 1) != 0);
    if (lane == k) chunk.label_bits[word][k] = bits;
  }
}

// Sorts `count` candidates, one per thread, into the chunk, and loads their boxes. A candidate is written to its rank,
// the number of candidates that precede it: it is counted by the high bits of their sort keys, and only those with
// equal high bits are compared as a whole. The boxes are loaded meanwhile. All threads of the block call it.
template <typename T>
__device__ void fill_chunk(SortedChunk<T>& chunk, const candidate_t<T>& own, int count, const BoxSource<T>& source,
                           const SelectParams<T>& params, int64_t image) {
  using C = candidate_t<T>;
  constexpr int kSize = SortedChunk<T>::kSize;
  const int i = threadIdx.x;
  const unsigned own_high = i < count ? high_bits<C>(sort_key(own)) : ~0u;
  if (i < kSize) {
    chunk.items[i] = own;
    chunk.high[i] = own_high;
    chunk.num_with_rank[i] = 0;
    chunk.labels[i] = kNoLabel;
  }
  __syncthreads();
  int rank = 0;
  unsigned label = kNoLabel, box_index = 0;
  Box<T> box{}, prior{};
  if (i < count) {
    const CandidateAt at = locate(source, params, image, index_of(own));
    label = at.label;
    box_index = at.box_index;
    box = load_box_as<T>(source.boxes_dtype, source.boxes.of[at.level], at.row);
    if (source.priors != nullptr) prior = source.priors[at.box_index];
    rank = count_below(chunk, count, own_high);
    atomicAdd(&chunk.num_with_rank[rank], 1);
  }
  __syncthreads();
  if (i < count && chunk.num_with_rank[rank] > 1) {
    int equal_before = 0;
    for (int k = 0; k < count; ++k)
      if (chunk.high[k] == own_high && precedes(chunk.items[k], own)) ++equal_before;
    rank += equal_before;
  }
  __syncthreads();  // all threads have read the items
  if (i < count) {
    if (source.priors != nullptr) box = decode(box, prior, CodeType::center_size, source.variances);
    if (source.clip) box = clip_to_image(box);
    chunk.items[rank] = own;
    chunk.boxes[rank] = box;
    chunk.areas[rank] = area(box);
    chunk.labels[rank] = too_small(box, params.min_size) ? kNoLabel : label;
    chunk.box_indices[rank] = box_index;
  }
  __syncthreads();
  write_label_bits(chunk, count, num_label_bits(params.num_classes));
  __syncthreads();
}

// The boxes of a word with this label.
template <typename T>
__device__ __forceinline__ unsigned boxes_with_label(const SortedChunk<T>& chunk, int word, unsigned label,
                                                     int label_bits) {
  unsigned same = kFullMask;
#pragma unroll 4  // several loads in flight
  for (int k = 0; k < label_bits; ++k) {
    const unsigned bits = chunk.label_bits[word][k];
    same &= (label >> k & 1) != 0 ? bits : ~bits;
  }
  return same;
}

// Loads the candidates of the list from `first` to `last`; returns their number, at most SortedChunk::kSize. All
// threads of the block call it.
template <typename T, typename C = candidate_t<T>, typename Key = candidate_key_t<C>>
__device__ int load_chunk(SortedChunk<T>& chunk, const CandidateList<C>& list, Key first, Key last,
                          const BoxSource<T>& source, const SelectParams<T>& params, int64_t image) {
  const bool all = list.count <= SortedChunk<T>::kSize && first == 0 && last == kMaxKey<C>;
  const int count = all ? static_cast<int>(list.count) : gather<kSelectThreads>(list, first, last, chunk.items),
            i = threadIdx.x;
  const C own = i >= count ? last_candidate<C>() : all ? list.items[i] : chunk.items[i];
  fill_chunk(chunk, own, count, source, params, image);
  return count;
}

}  // namespace
}  // namespace ssd_ops
