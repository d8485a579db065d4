// The launches of range after range. The plan is in ranges.cuh.
#pragma once

#include "cuda/nms/collect_range.cuh"
#include "cuda/nms/decide_range.cuh"
#include "cuda/nms/order_all.cuh"
#include "cuda/nms/suppress_range.cuh"

namespace ssd_ops {
namespace {

template <bool has_classes, typename T>
cudaError_t launch_range(const NmsInputs& in, double iou_threshold, const Ranges<T>& work, const int64_t* order,
                         Begin begin, int64_t* keep, NmsProgress* progress, cudaStream_t stream) {
  const PairThresholds<T> thresholds = pair_thresholds<T>(iou_threshold);
  const bool near_only = iou_threshold >= 0;
  const T axis = axis_threshold(thresholds.decision);
  cudaError_t status = launch_as(begin, collect_kernel<has_classes, T>, kCollectBlocks, kChunkThreads, 0, stream, work);
  if (status == cudaSuccess)
    status = launch_dependent(compare_range_kernel<has_classes, T>, kMaxRangeGroups, kThreads, 0, stream, work,
                              thresholds, near_only, axis);
  if (status == cudaSuccess)
    status = launch_dependent(decide_range_kernel<T>, grid_blocks(kMaxRangeGroups, kDecideWarps),
                              kDecideWarps * kWarpSize, 0, stream, work);
  if (status == cudaSuccess)
    status = launch_dependent(suppress_range_kernel<has_classes, T>, grid_blocks(in.num_boxes, kThreads), kThreads, 0,
                              stream, work, thresholds, near_only, axis, order, keep, progress);
  return status;
}

template <bool has_classes, typename T>
cudaError_t launch_ranges(const NmsInputs& in, double iou_threshold, void* workspace, const int64_t* order,
                          int64_t first_range, int64_t num_ranges, int64_t* keep, NmsProgress* progress,
                          cudaStream_t stream) {
  WorkspaceLayout layout(workspace);
  const Ranges<T> work = ranges_workspace<T>(in.num_boxes, has_classes, layout);
  cudaError_t status = first_range == 0 ? launch_order_all<has_classes>(in, order, work, stream) : cudaSuccess;
  for (int64_t range = 0; range < num_ranges && status == cudaSuccess; ++range) {
    const bool follows_own_launch = range > 0 || first_range == 0;  // not a copy to the host
    status =
        launch_range<has_classes>(in, iou_threshold, work, order,
                                  follows_own_launch ? Begin::early : Begin::after_previous, keep, progress, stream);
  }
  return status;
}

}  // namespace
}  // namespace ssd_ops
