// The candidates of one tile: which of them suppress which, and which are kept. The plan is in select_kernel.cuh.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/select/candidates.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {
namespace {

constexpr int kSelectThreads = 512;
constexpr unsigned kNoLabel = ~0u;  // the label of a box that is too small to be a candidate

// Boxes that are resolved together. The label of a box is the index of its class.
template <typename T>
struct CandidateTile {
  static constexpr int kSize = sizeof(T) == sizeof(float) ? 256 : 128, kWords = kSize / kWarpSize;
  static constexpr int kThreadsPerBox = kSelectThreads / kSize;  // in different warps

  Box<T> boxes[kSize];
  T areas[kSize];
  unsigned labels[kSize];
  unsigned box_indices[kSize];            // index of the box in its image
  unsigned suppressors[kWords][kSize];    // bit b of [w][i] is set if box 32 w + b < i suppresses box i
  unsigned active[kWords], kept[kWords];  // a bit for each box
  int same_class_before[kSize];           // number of boxes of the tile with the same label that precede the box
  int same_class_from_here[kSize];        // number of those that follow it, and the box itself
  // Boxes kept before this tile, kSize of them at a time.
  Box<T> kept_before[kSize];
  unsigned kept_before_labels[kSize];
};

template <typename T>
__device__ Box<T> load_candidate(const BoxSource<T>& source, const SelectParams<T>& params, int64_t image,
                                 unsigned index, unsigned* label, unsigned* index_in_image) {
  const int64_t stride = source.class_box_indices != nullptr ? source.class_capacity : params.num_boxes;
  *label = static_cast<unsigned>(index / stride);
  const int64_t box_index = source.class_box_indices != nullptr
                                ? source.class_box_indices[image * params.num_classes * stride + index]
                                : index % stride;
  *index_in_image = static_cast<unsigned>(box_index);
  const LevelRow at = level_row(source.levels, image, box_index);
  Box<T> box = source.boxes.of[at.level][source.boxes_by_class ? at.row * params.num_classes + *label : at.row];
  if (source.priors != nullptr) box = decode(box, source.priors[box_index], CodeType::center_size, source.variances);
  return source.clip ? clip_to_image(box) : box;
}

template <typename T>
__device__ void load_tile(CandidateTile<T>& tile, const candidate_t<T>* candidates, int count,
                          const BoxSource<T>& source, const SelectParams<T>& params, int64_t image) {
  const int i = threadIdx.x;
  if (i < CandidateTile<T>::kSize) {
    unsigned label = kNoLabel, box_index = 0;
    Box<T> box{};
    if (i < count) box = load_candidate(source, params, image, index_of(candidates[i]), &label, &box_index);
    tile.boxes[i] = box;
    tile.areas[i] = area(box);
    tile.box_indices[i] = box_index;
    tile.labels[i] = too_small(box, params.min_size) ? kNoLabel : label;
    tile.same_class_before[i] = tile.same_class_from_here[i] = 0;
  }
  if (i < CandidateTile<T>::kWords) tile.active[i] = ~0u;
  __syncthreads();
}

// Compares each box of the tile with those that precede it, and counts the boxes with the same label.
template <bool with_suppression, typename T>
__device__ void compare_tile(CandidateTile<T>& tile, int count, const SuppressionThresholds<T>& thresholds) {
  constexpr int kSize = CandidateTile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = tile.boxes[i];
  const T box_area = tile.areas[i];
  const unsigned label = tile.labels[i];
  int same_class_before = 0, same_class_from_here = 0;
  for (int w = threadIdx.x / kSize; w < CandidateTile<T>::kWords; w += CandidateTile<T>::kThreadsPerBox) {
    unsigned same = 0, bits = 0;
    if (i < count && label != kNoLabel && w * kWarpSize < count) {
#pragma unroll 8
      for (int k = 0; k < kWarpSize; ++k) same |= (tile.labels[w * kWarpSize + k] == label ? 1u : 0u) << k;
    }
    const int own_bit = i - w * kWarpSize;  // of box i in this word, may be out of range
    const unsigned preceding = own_bit <= 0 ? 0 : own_bit < kWarpSize ? (1u << own_bit) - 1 : ~0u;
    same_class_before += __popc(same & preceding);
    same_class_from_here += __popc(same & ~preceding);
    for (unsigned rest = with_suppression ? same & preceding : 0; rest != 0; rest &= rest - 1) {
      const int j = w * kWarpSize + __ffs(static_cast<int>(rest)) - 1;
      if (suppresses(tile.boxes[j], box, tile.areas[j], box_area, thresholds)) bits |= rest & (0 - rest);
    }
    tile.suppressors[w][i] = bits;
  }
  if (same_class_before > 0) atomicAdd(&tile.same_class_before[i], same_class_before);
  if (same_class_from_here > 0) atomicAdd(&tile.same_class_from_here[i], same_class_from_here);
}

// Deactivates the boxes that one of the `num_kept` boxes kept before this tile suppresses.
template <typename T>
__device__ void suppress_by_kept(CandidateTile<T>& tile, int count, int64_t num_kept, int64_t image,
                                 const SelectParams<T>& params) {
  constexpr int kSize = CandidateTile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = tile.boxes[i];
  const T box_area = tile.areas[i];
  const unsigned label = i < count ? tile.labels[i] : kNoLabel;
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
  if (!active) atomicAnd(&tile.active[i / kWarpSize], ~(1u << (i % kWarpSize)));
}

// Deactivates the boxes that are too small and those beyond the top-k of their class, k = candidates_per_class.
// `num_visited_by_class`, the number of boxes of each class before the tile, is null if no class exceeds k.
template <typename T>
__device__ void limit_classes(CandidateTile<T>& tile, int count, int64_t candidates_per_class,
                              int* num_visited_by_class) {
  const int i = threadIdx.x;
  if (i >= CandidateTile<T>::kSize) return;
  const bool has_label = i < count && tile.labels[i] != kNoLabel;
  int visited_before = 0, same_class_before = 0;
  if (has_label) {
    visited_before = num_visited_by_class != nullptr ? num_visited_by_class[tile.labels[i]] : 0;
    same_class_before = tile.same_class_before[i];
  }
  const unsigned bits =
      __ballot_sync(kFullMask, has_label && visited_before + same_class_before < candidates_per_class);
  if (i % kWarpSize == 0) atomicAnd(&tile.active[i / kWarpSize], bits);
}

// Adds the boxes of the tile to the visited boxes of their classes.
template <typename T>
__device__ void count_visited(const CandidateTile<T>& tile, int count, int* num_visited_by_class) {
  const int i = threadIdx.x;
  // The first box of each class in the tile adds them all.
  if (i < count && i < CandidateTile<T>::kSize && tile.labels[i] != kNoLabel && tile.same_class_before[i] == 0)
    num_visited_by_class[tile.labels[i]] += tile.same_class_from_here[i];
}

// Finds which active boxes are kept. Each iteration keeps all boxes but those that a box kept by the previous iteration
// suppresses, until nothing changes. After k iterations the first k boxes are final, since only preceding boxes
// suppress a box; so this ends, at the only fixpoint, which is the greedy result. Called by one warp.
template <typename T>
__device__ void resolve_by_fixpoint(CandidateTile<T>& tile) {
  constexpr int kWords = CandidateTile<T>::kWords;
  const int lane = threadIdx.x;
  if (lane < kWords) tile.kept[lane] = tile.active[lane];
  bool changed = true;
  while (changed) {
    __syncwarp();
    unsigned kept[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int i = w * kWarpSize + lane;
      unsigned by_kept = 0;
#pragma unroll
      for (int v = 0; v <= w; ++v) by_kept |= tile.suppressors[v][i] & tile.kept[v];
      kept[w] = __ballot_sync(kFullMask, by_kept == 0) & tile.active[w];
    }
    changed = false;
#pragma unroll
    for (int w = 0; w < kWords; ++w) changed = changed || kept[w] != tile.kept[w];
    __syncwarp();
#pragma unroll
    for (int w = 0; w < kWords; ++w)
      if (lane == w) tile.kept[w] = kept[w];
  }
}

// Appends the kept boxes of the tile to the `num_kept` detections of the image; returns their new number.
template <typename T>
__device__ int64_t write_kept(const CandidateTile<T>& tile, const candidate_t<T>* candidates, int64_t num_kept,
                              int64_t image, const SelectParams<T>& params) {
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
    reinterpret_cast<Box<T>*>(params.out.boxes)[image * max_detections + out] = tile.boxes[i];
    params.out.scores[image * max_detections + out] = score_of(candidates[i]);
    params.out.labels[image * max_detections + out] = tile.labels[i];
    params.out.box_indices[image * max_detections + out] = tile.box_indices[i];
  }
  return num_kept + total < max_detections ? num_kept + total : max_detections;
}

}  // namespace
}  // namespace ssd_ops
