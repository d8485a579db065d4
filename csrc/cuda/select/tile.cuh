// The boxes of one tile of a chunk: which of them suppress which, and which are kept. The plan is in select_kernel.cuh.
#pragma once

#include "cuda/select/sorted_chunk.cuh"

namespace ssd_ops {
namespace {

// Boxes of a chunk that are resolved together.
template <typename T>
struct CandidateTile {
  static constexpr int kSize = SortedChunk<T>::kSize / 2, kWords = kSize / kWarpSize;
  static constexpr int kThreadsPerBox = kSelectThreads / kSize;  // in different warps

  unsigned suppressors[kWords][kSize];  // bit b of [w][i] is set if box 32 w + b < i suppresses box i
  unsigned kept[kWords];                // a bit for each box
  // Boxes kept before this tile, kSize of them at a time.
  Box<T> kept_before[kSize];
  unsigned kept_before_labels[kSize];
};

// The boxes of a tile in their chunk.
template <typename T>
struct TileBoxes {
  SortedChunk<T>& chunk;
  int begin, count;  // begin is a multiple of the tile's size

  __device__ __forceinline__ int first_word() const { return begin / kWarpSize; }
  // Those of box i of the tile; after the last one, nothing was written.
  __device__ __forceinline__ Box<T> box(int i) const { return i < count ? chunk.boxes[begin + i] : Box<T>{}; }
  __device__ __forceinline__ T area(int i) const { return i < count ? chunk.areas[begin + i] : T(0); }
  __device__ __forceinline__ unsigned label(int i) const { return i < count ? chunk.labels[begin + i] : kNoLabel; }
};

// Compares a box of the tile with those that precede it; each of the first kSize threads has a box.
template <typename T>
__device__ void compare_with_preceding(const TileBoxes<T>& boxes, int label_bits,
                                       const SuppressionThresholds<T>& thresholds, CandidateTile<T>& tile) {
  const int i = threadIdx.x;
  const SortedChunk<T>& chunk = boxes.chunk;
  const Box<T> box = boxes.box(i);
  const T box_area = boxes.area(i);
  const unsigned label = boxes.label(i);
#pragma unroll 1
  for (int w = 0; w < CandidateTile<T>::kWords; ++w) {
    const int own_bit = i - w * kWarpSize;  // of box i in this word, may be out of range
    unsigned bits = 0;
    if (own_bit > 0 && label != kNoLabel) {
      const unsigned preceding = own_bit < kWarpSize ? (1u << own_bit) - 1 : ~0u;
      unsigned rest = preceding & boxes_with_label(chunk, boxes.first_word() + w, label, label_bits);
      for (; rest != 0; rest &= rest - 1) {
        const int j = boxes.begin + w * kWarpSize + __ffs(static_cast<int>(rest)) - 1;
        if (suppresses(chunk.boxes[j], box, chunk.areas[j], box_area, thresholds)) bits |= rest & (0 - rest);
      }
    }
    tile.suppressors[w][i] = bits;
  }
}

// Deactivates the boxes that one of the `num_kept` boxes kept before this tile suppresses. A box has kThreadsPerBox
// threads, which divide the kept boxes. All threads of the block call it.
template <typename T>
__device__ void suppress_by_kept(const TileBoxes<T>& boxes, int64_t num_kept, int64_t image,
                                 const SelectParams<T>& params, CandidateTile<T>& tile) {
  constexpr int kSize = CandidateTile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = boxes.box(i);
  const T box_area = boxes.area(i);
  const unsigned label = boxes.label(i);
  const int64_t first_out = image * params.out.max_detections;
  const Box<T>* kept = reinterpret_cast<const Box<T>*>(params.out.boxes) + first_out;
  bool active = true;
  for (int64_t begin = 0; begin < num_kept; begin += kSize) {
    const int loaded = static_cast<int>(num_kept - begin < kSize ? num_kept - begin : kSize);
    __syncthreads();  // all threads are done with the previous ones
    if (static_cast<int>(threadIdx.x) < loaded) {
      tile.kept_before[threadIdx.x] = kept[begin + threadIdx.x];
      tile.kept_before_labels[threadIdx.x] = static_cast<unsigned>(params.out.labels[first_out + begin + threadIdx.x]);
    }
    __syncthreads();
    for (int k = threadIdx.x / kSize; active && label != kNoLabel && k < loaded;
         k += CandidateTile<T>::kThreadsPerBox) {
      if (tile.kept_before_labels[k] != label) continue;
      const Box<T> other = tile.kept_before[k];
      active = !suppresses(other, box, area(other), box_area, params.thresholds);
    }
  }
  if (!active) atomicAnd(&boxes.chunk.active[boxes.first_word() + i / kWarpSize], ~(1u << (i % kWarpSize)));
}

// Deactivates the boxes beyond the top-k of their class, k = candidates_per_class, and adds the boxes of the tile to
// `num_visited_by_class`, the number of boxes of each class before the tile. All threads of the block call it.
template <typename T>
__device__ void limit_classes(const TileBoxes<T>& boxes, int label_bits, int64_t candidates_per_class,
                              int* num_visited_by_class) {
  const int i = threadIdx.x, lane = i % kWarpSize, word = i / kWarpSize;
  const bool has_box = i < CandidateTile<T>::kSize;
  const unsigned label = has_box ? boxes.label(i) : kNoLabel;
  int visited_before = 0, same_class_before = 0, same_class = 0;
  if (label != kNoLabel) {
    visited_before = num_visited_by_class[label];
    for (int w = 0; w * kWarpSize < boxes.count; ++w) {
      const unsigned same = boxes_with_label(boxes.chunk, boxes.first_word() + w, label, label_bits);
      same_class += __popc(same);
      same_class_before += w < word ? __popc(same) : w == word ? bits_below_lane(same) : 0;
    }
  }
  const unsigned within = __ballot_sync(kFullMask, visited_before + same_class_before < candidates_per_class);
  if (lane == 0 && i < boxes.count) atomicAnd(&boxes.chunk.active[boxes.first_word() + word], within);
  __syncthreads();  // all threads have read the numbers
  // The first box of each class in the tile adds them all.
  if (label != kNoLabel && same_class_before == 0) num_visited_by_class[label] += same_class;
}

// Finds which active boxes are kept. Each iteration keeps all boxes but those that a box kept by the previous iteration
// suppresses, until nothing changes. After k iterations the first k boxes are final, since only preceding boxes
// suppress a box; so this ends, at the only fixpoint, which is the greedy result. All threads of the block call it.
template <typename T>
__device__ void resolve_by_fixpoint(const TileBoxes<T>& boxes, CandidateTile<T>& tile) {
  constexpr int kWords = CandidateTile<T>::kWords;
  const int i = threadIdx.x, lane = i % kWarpSize, word = i / kWarpSize;
  const bool has_box = i < CandidateTile<T>::kSize;
  const unsigned active = has_box && word * kWarpSize < boxes.count ? boxes.chunk.active[boxes.first_word() + word] : 0;
  unsigned suppressors[kWords], kept = active;
#pragma unroll
  for (int w = 0; w < kWords; ++w) suppressors[w] = has_box ? tile.suppressors[w][i] : 0;
  if (has_box && lane == 0) tile.kept[word] = kept;
  for (bool changed = true; changed;) {
    __syncthreads();
    unsigned by_kept = 0;
#pragma unroll
    for (int w = 0; w < kWords; ++w) by_kept |= suppressors[w] & tile.kept[w];
    const unsigned next = __ballot_sync(kFullMask, by_kept == 0) & active;
    changed = __syncthreads_or(next != kept ? 1 : 0) != 0;
    kept = next;
    if (has_box && lane == 0) tile.kept[word] = kept;
  }
  __syncthreads();
}

// Appends the kept boxes of the tile to the `num_kept` detections of the image; returns their new number.
template <typename T>
__device__ int64_t write_kept(const TileBoxes<T>& boxes, const CandidateTile<T>& tile, int64_t num_kept, int64_t image,
                              const SelectParams<T>& params) {
  const int64_t max_detections = params.out.max_detections;
  const int i = threadIdx.x, word = i / kWarpSize;
  const unsigned bit = 1u << (i % kWarpSize);
  int preceding = 0, total = 0;
#pragma unroll
  for (int w = 0; w < CandidateTile<T>::kWords; ++w) {
    const unsigned kept = tile.kept[w];
    if (w < word) preceding += __popc(kept);
    if (w == word) preceding += __popc(kept & (bit - 1));
    total += __popc(kept);
  }
  const int64_t out = num_kept + preceding;
  if (word < CandidateTile<T>::kWords && (tile.kept[word] & bit) != 0 && out < max_detections) {
    const SortedChunk<T>& chunk = boxes.chunk;
    const int at = boxes.begin + i;
    reinterpret_cast<Box<T>*>(params.out.boxes)[image * max_detections + out] = chunk.boxes[at];
    params.out.scores[image * max_detections + out] = score_of(chunk.items[at]);
    params.out.labels[image * max_detections + out] = chunk.labels[at];
    params.out.box_indices[image * max_detections + out] = chunk.box_indices[at];
  }
  return num_kept + total < max_detections ? num_kept + total : max_detections;
}

}  // namespace
}  // namespace ssd_ops
