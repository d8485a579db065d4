// Read in this order: nms.h (the interface), this file, few_boxes.cuh (up to kMaxFew boxes), chunk.cuh (up to kMaxChunk
// boxes that are resolved at once), whole_input.cuh (all boxes are a chunk), many_boxes.cuh (chunk after chunk).
#include "cuda/nms/few_boxes.cuh"
#include "cuda/nms/many_boxes.cuh"
#include "cuda/nms/nms.h"
#include "cuda/nms/whole_input.cuh"

namespace ssd_ops {
namespace {

template <bool has_classes, typename T>
cudaError_t launch_by_size(const NmsInputs& in, double iou_threshold, void* workspace, const int64_t* order,
                           int64_t first_chunk, int64_t num_chunks, int64_t* keep, NmsProgress* progress,
                           cudaStream_t stream) {
  if (in.num_boxes <= kMaxFew) return launch_few<has_classes, T>(in, iou_threshold, workspace, keep, progress, stream);
  if (in.num_boxes <= kMaxChunk)
    return launch_whole<has_classes, T>(in, iou_threshold, workspace, keep, progress, stream);
  return launch_many<has_classes, T>(in, iou_threshold, workspace, order, first_chunk, num_chunks, keep, progress,
                                     stream);
}

}  // namespace

size_t nms_workspace_bytes(int64_t num_boxes) {
  WorkspaceLayout layout(nullptr);  // of the larger of the types
  if (num_boxes <= kMaxFew) {
    few_workspace(num_boxes, layout);
  } else if (num_boxes <= kMaxChunk) {
    chunk_workspace<double>(num_boxes, layout);
    kept_workspace<uint64_t>(num_boxes, layout);
  } else {
    many_workspace<double>(num_boxes, layout);
  }
  return layout.bytes();
}

int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, const int64_t* order, int64_t first_chunk,
               int64_t num_chunks, int64_t* keep, NmsProgress* progress, CUstream_st* stream) {
  const bool is_double = in.box_type == Dtype::f64;
  auto* launch_chosen = in.classes != nullptr
                            ? (is_double ? launch_by_size<true, double> : launch_by_size<true, float>)
                            : (is_double ? launch_by_size<false, double> : launch_by_size<false, float>);
  return launch_chosen(in, iou_threshold, workspace, order, first_chunk, num_chunks, keep, progress, stream);
}

}  // namespace ssd_ops
