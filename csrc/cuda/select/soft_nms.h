// Soft-NMS on the GPU; torch-free.
#pragma once

#include "core/soft_nms.h"
#include "cuda/select/select.h"

namespace ssd_ops {

// Bytes of workspace: what the classes select, and the active boxes, of as many images as fit into 256 MB, at least
// one.
template <typename T>
size_t soft_nms_workspace_bytes(const SoftNmsParams<T>& params, int64_t num_images);

// `params` has scores, boxes, results and class_box_indices on the device; class_counts and class_scores are not used.
template <typename T>
int launch_soft_nms(const SoftNmsParams<T>& params, int64_t num_images, void* workspace, CUstream_st* stream);

}  // namespace ssd_ops
