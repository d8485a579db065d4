// The candidates of one tile: which of them suppress which, and which are kept. The plan is in select.cu.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/select/candidates.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 512;
constexpr unsigned kNoLabel = ~0u;  // the label of a box that is too small to count

// Boxes that are resolved together. "Same" boxes are those of the tile with the same label.
template <typename T>
struct Tile {
  static constexpr int kSize = sizeof(T) == sizeof(float) ? 256 : 128, kWords = kSize / kWarpSize;
  static constexpr int kThreadsPerBox = kThreads / kSize;  // in different warps

  Box<T> boxes[kSize];
  T areas[kSize];
  unsigned labels[kSize];
  unsigned rows[kSize];                              // index of the box in its image
  unsigned suppressors[kWords][kSize];               // bit b of [w][i] is set if box 32 w + b < i suppresses box i
  unsigned active[kWords], kept[kWords];             // a bit for each box
  int same_preceding[kSize], same_following[kSize];  // numbers of same boxes; the box itself counts as following
  // Boxes kept before this tile, a part of them at a time.
  Box<T> kept_before[kSize];
  unsigned kept_before_labels[kSize];
};

template <typename T>
__device__ Box<T> load_candidate(const BoxSource<T>& source, const SelectTask<T>& task, int64_t image, unsigned index,
                                 unsigned* label, unsigned* row) {
  const int64_t stride = source.class_rows != nullptr ? source.class_capacity : task.num_boxes;
  *label = static_cast<unsigned>(index / stride);
  const int64_t box_index =
      source.class_rows != nullptr ? source.class_rows[image * task.num_classes * stride + index] : index % stride;
  *row = static_cast<unsigned>(box_index);
  const int64_t in_batch = image * task.num_boxes + box_index;
  Box<T> box = source.boxes[source.boxes_by_class ? in_batch * task.num_classes + *label : in_batch];
  if (source.priors != nullptr) box = decode(box, source.priors[box_index], CodeType::center_size, source.variances);
  return source.clip ? clip_to_image(box) : box;
}

template <typename T>
__device__ void load_tile(Tile<T>& tile, const candidate_t<T>* candidates, int count, const BoxSource<T>& source,
                          const SelectTask<T>& task, int64_t image) {
  const int i = threadIdx.x;
  if (i < Tile<T>::kSize) {
    unsigned label = kNoLabel, row = 0;
    Box<T> box{};
    if (i < count) box = load_candidate(source, task, image, index_of(candidates[i]), &label, &row);
    tile.boxes[i] = box;
    tile.areas[i] = area(box);
    tile.rows[i] = row;
    tile.labels[i] = too_small(box, task.min_size) ? kNoLabel : label;
    tile.same_preceding[i] = tile.same_following[i] = 0;
  }
  if (i < Tile<T>::kWords) tile.active[i] = ~0u;
  __syncthreads();
}

// Compares each box of the tile with those that precede it, and counts the boxes with the same label.
template <bool with_suppression, typename T>
__device__ void compare_tile(Tile<T>& tile, int count, const SuppressionRule<T>& rule) {
  constexpr int kSize = Tile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = tile.boxes[i];
  const T box_area = tile.areas[i];
  const unsigned label = tile.labels[i];
  int same_preceding = 0, same_following = 0;
  for (int w = threadIdx.x / kSize; w < Tile<T>::kWords; w += Tile<T>::kThreadsPerBox) {
    unsigned same = 0, bits = 0;
    if (i < count && label != kNoLabel && w * kWarpSize < count) {
#pragma unroll 8
      for (int k = 0; k < kWarpSize; ++k) same |= (tile.labels[w * kWarpSize + k] == label ? 1u : 0u) << k;
    }
    const int own_bit = i - w * kWarpSize;  // of box i in this word, may be out of range
    const unsigned preceding = own_bit <= 0 ? 0 : own_bit < kWarpSize ? (1u << own_bit) - 1 : ~0u;
    same_preceding += __popc(same & preceding);
    same_following += __popc(same & ~preceding);
    for (unsigned rest = with_suppression ? same & preceding : 0; rest != 0; rest &= rest - 1) {
      const int j = w * kWarpSize + __ffs(static_cast<int>(rest)) - 1;
      if (suppresses(tile.boxes[j], box, tile.areas[j], box_area, rule)) bits |= rest & (0 - rest);
    }
    tile.suppressors[w][i] = bits;
  }
  if (same_preceding > 0) atomicAdd(&tile.same_preceding[i], same_preceding);
  if (same_following > 0) atomicAdd(&tile.same_following[i], same_following);
}

// Deactivates the boxes that one of the `num_kept` boxes kept before this tile suppresses.
template <typename T>
__device__ void suppress_by_kept(Tile<T>& tile, int count, int64_t num_kept, int64_t image, const SelectTask<T>& task) {
  constexpr int kSize = Tile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = tile.boxes[i];
  const T box_area = tile.areas[i];
  const unsigned label = i < count ? tile.labels[i] : kNoLabel;
  const int64_t first_out = image * task.out.max_detections;
  const Box<T>* kept = reinterpret_cast<const Box<T>*>(task.out.boxes) + first_out;
  bool active = true;
  for (int64_t from = 0; from < num_kept; from += kSize) {
    const int loaded = static_cast<int>(num_kept - from < kSize ? num_kept - from : kSize);
    __syncthreads();  // all threads are done with the part before
    if (static_cast<int>(threadIdx.x) < loaded) {
      tile.kept_before[threadIdx.x] = kept[from + threadIdx.x];
      tile.kept_before_labels[threadIdx.x] = static_cast<unsigned>(task.out.labels[first_out + from + threadIdx.x]);
    }
    __syncthreads();
    for (int k = threadIdx.x / kSize; active && label != kNoLabel && k < loaded; k += Tile<T>::kThreadsPerBox) {
      if (tile.kept_before_labels[k] != label) continue;
      const Box<T> other = tile.kept_before[k];
      active = !suppresses(other, box, area(other), box_area, task.rule);
    }
  }
  if (!active) atomicAnd(&tile.active[i / kWarpSize], ~(1u << (i % kWarpSize)));
}

// Deactivates the boxes that do not count: those too small, and those beyond the top-k of their class. `visited`, the
// number of boxes of each class before the tile, is null if no class exceeds k.
template <typename T>
__device__ void limit_classes(Tile<T>& tile, int count, int64_t candidates_per_class, int* visited) {
  const int i = threadIdx.x;
  if (i >= Tile<T>::kSize) return;
  const bool counts = i < count && tile.labels[i] != kNoLabel;
  int visited_before = 0, same_preceding = 0;
  if (counts) {
    visited_before = visited != nullptr ? visited[tile.labels[i]] : 0;
    same_preceding = tile.same_preceding[i];
  }
  const unsigned bits = __ballot_sync(kFullMask, counts && visited_before + same_preceding < candidates_per_class);
  if (i % kWarpSize == 0) atomicAnd(&tile.active[i / kWarpSize], bits);
}

// Adds the boxes of the tile to the visited boxes of their classes.
template <typename T>
__device__ void count_visited(const Tile<T>& tile, int count, int* visited) {
  const int i = threadIdx.x;
  // The first box of each class in the tile adds them all.
  if (i < count && i < Tile<T>::kSize && tile.labels[i] != kNoLabel && tile.same_preceding[i] == 0)
    visited[tile.labels[i]] += tile.same_following[i];
}

// Which active boxes are kept: all but those that a kept box suppresses, repeated until nothing changes, which is the
// greedy result. By one warp.
template <typename T>
__device__ void resolve_tile(Tile<T>& tile) {
  constexpr int kWords = Tile<T>::kWords;
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
__device__ int64_t write_kept(const Tile<T>& tile, const candidate_t<T>* candidates, int64_t num_kept, int64_t image,
                              const SelectTask<T>& task) {
  const int64_t max_detections = task.out.max_detections;
  const int i = threadIdx.x, word = i / kWarpSize;
  const unsigned bit = 1u << (i % kWarpSize);
  int preceding = 0, total = 0;
#pragma unroll
  for (int w = 0; w < Tile<T>::kWords; ++w) {
    const unsigned kept = tile.kept[w];
    if (w < word) preceding += __popc(kept);
    if (w == word) preceding += __popc(kept & (bit - 1));
    total += __popc(kept);
  }
  const int64_t out = num_kept + preceding;
  if (word < Tile<T>::kWords && (tile.kept[word] & bit) != 0 && out < max_detections) {
    reinterpret_cast<Box<T>*>(task.out.boxes)[image * max_detections + out] = tile.boxes[i];
    task.out.scores[image * max_detections + out] = score_of(candidates[i]);
    task.out.labels[image * max_detections + out] = tile.labels[i];
    task.out.rows[image * max_detections + out] = tile.rows[i];
  }
  return num_kept + total < max_detections ? num_kept + total : max_detections;
}

}  // namespace
}  // namespace ssd_ops
