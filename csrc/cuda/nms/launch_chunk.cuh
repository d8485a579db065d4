// The launches of the kernels of a chunk. The plan is in chunk.cuh.
#pragma once

#include "cuda/nms/compare_near.cuh"
#include "cuda/nms/decide.cuh"
#include "cuda/nms/sort_chunk.cuh"

namespace ssd_ops {
namespace {

// Launches the kernels that the two callers of chunk.cuh share.
template <bool has_classes, typename Source, typename T>
cudaError_t launch_chunk(Begin begin, const Source& source, const Chunk<T>& chunk, double iou_threshold,
                         cudaStream_t stream) {
  const PairThresholds<T> thresholds = pair_thresholds<T>(iou_threshold);
  const auto groups = static_cast<unsigned>(chunk.groups());
  cudaError_t status =
      launch_as(begin, sort_chunk_kernel<has_classes, Source, T>, 1, kChunkThreads, 0, stream, source, chunk);
  if (status == cudaSuccess)
    status = launch_dependent(compare_near_kernel<has_classes, T>, groups, kThreads, 0, stream, chunk, thresholds,
                              iou_threshold >= 0, axis_threshold(thresholds.decision));
  if (status == cudaSuccess)
    status = launch_dependent(decide_kernel<T>, grid_blocks(groups, kDecideWarps), kDecideWarps * kWarpSize, 0, stream,
                              chunk);
  return status;
}

}  // namespace
}  // namespace ssd_ops
