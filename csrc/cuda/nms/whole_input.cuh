// More than kMaxFew and up to kMaxChunk boxes: only the kept boxes are sorted by score.
//
// Plan: after the kernels of chunk.cuh, finish_kernel writes the kept boxes in the order of input, and
// rank_kept_kernel, which compares their scores with each other, writes each to its rank: the number of kept boxes that
// precede it.
#pragma once

#include "cuda/common/unmeasured.h"
#include "cuda/nms/compare_listed.cuh"
#include "cuda/nms/decide.cuh"
#include "cuda/nms/order_chunk.cuh"
#include "cuda/nms/rank.cuh"

namespace ssd_ops {
namespace {

template <typename Key>
struct KeptBoxes {
  Key* keys;          // [n] in the order of input
  unsigned* indices;  // [n]
  int* count;         // [1]
};

template <typename Key>
inline KeptBoxes<Key> kept_workspace(int64_t n, WorkspaceLayout& layout) {
  KeptBoxes<Key> kept;
  kept.keys = layout.array<Key>(n);
  kept.indices = layout.array<unsigned>(n);
  kept.count = layout.array<int>(1);
  return kept;
}

template <typename Key, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1)
    finish_kernel(NmsInputs in, Chunk<T> chunk, KeptBoxes<Key> kept, NmsProgress* progress) {
  __shared__ KeptIndices sorted;
  wait_for_previous_kernel();
  const int total = sort_kept(chunk, decide_remaining(chunk), sorted);
  for (int i = static_cast<int>(threadIdx.x); i < chunk.count; i += kChunkThreads) {
    const unsigned bits = sorted.bits[i / kWarpSize];
    if ((bits >> (i % kWarpSize) & 1) == 0) continue;
    const int position = sorted.offsets[i / kWarpSize] + bits_below_lane(bits);
    kept.keys[position] = load_key<Key>(in, i);
    kept.indices[position] = static_cast<unsigned>(i);
  }
  if (threadIdx.x != 0) return;
  *kept.count = total;
  *progress = {total, 0};
}

template <typename Key>
__global__ void __launch_bounds__(kThreads) rank_kept_kernel(KeptBoxes<Key> kept, int64_t* keep, int capacity) {
  wait_for_previous_kernel();
  const int n = *kept.count, begin = static_cast<int>(blockIdx.x) * kWarpSize, thread = static_cast<int>(threadIdx.x);
  // The result may be a view of this array, and saving a view saves all of it.
  if (thread < kWarpSize && begin + thread >= n && begin + thread < capacity) keep[begin + thread] = 0;
  if (begin >= n) return;
  const int rank = rank_in_block<Key>(begin, n, [&](int i) { return kept.keys[i]; });
  if (thread < kWarpSize && begin + thread < n) keep[rank] = kept.indices[begin + thread];
}

template <typename Key, typename T>
cudaError_t launch_finish(const NmsInputs& in, const Chunk<T>& chunk, WorkspaceLayout& layout, int64_t* keep,
                          NmsProgress* progress, cudaStream_t stream) {
  const KeptBoxes<Key> kept = kept_workspace<Key>(in.num_boxes, layout);
  const cudaError_t status =
      launch_dependent(finish_kernel<Key, T>, 1, kChunkThreads, 0, stream, in, chunk, kept, progress);
  if (status != cudaSuccess) return status;
  return launch_dependent(rank_kept_kernel<Key>, grid_blocks(in.num_boxes, kWarpSize), kThreads, 0, stream, kept, keep,
                          chunk.count);
}

// Sorts and compares the boxes.
template <bool has_classes, typename T>
cudaError_t launch_compare(const NmsInputs& in, const Chunk<T>& chunk, double iou_threshold, cudaStream_t stream) {
  const PairThresholds<T> thresholds = pair_thresholds<T>(iou_threshold);
  const auto groups = static_cast<unsigned>(chunk.groups);
  auto* compare = compare_listed_kernel<has_classes, T>;
  cudaError_t status = cudaSuccess;
  if (has_classes || uses_unmeasured_kernels()) {
    status = launch_order<has_classes>(in, chunk, stream);
  } else {
    compare = compare_near_kernel<T>;
    status = launch(sort_chunk_kernel<T>, 1, kChunkThreads, 0, stream, in, chunk);
  }
  if (status != cudaSuccess) return status;
  return launch_dependent(compare, groups, kThreads, 0, stream, chunk, thresholds, iou_threshold >= 0,
                          axis_threshold(thresholds.decision));
}

template <bool has_classes, typename T>
cudaError_t launch_whole(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* keep,
                         NmsProgress* progress, cudaStream_t stream) {
  WorkspaceLayout layout(workspace);
  const Chunk<T> chunk = chunk_workspace<T>(in.num_boxes, has_classes, layout);
  cudaError_t status = launch_compare<has_classes>(in, chunk, iou_threshold, stream);
  if (status == cudaSuccess)
    status = launch_dependent(decide_kernel<T>, grid_blocks(chunk.groups, kDecideWarps), kDecideWarps * kWarpSize, 0,
                              stream, chunk);
  if (status != cudaSuccess) return status;
  auto* finish = in.score_type == Dtype::f64 ? launch_finish<uint64_t, T> : launch_finish<uint32_t, T>;
  return finish(in, chunk, layout, keep, progress, stream);
}

}  // namespace
}  // namespace ssd_ops
