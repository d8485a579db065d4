// Soft-NMS on the GPU; torch-free.
#pragma once

#include "core/soft_nms.h"
#include "cuda/select/select.h"

namespace ssd_ops {

// Bytes of workspace: what classes take and the living boxes of as many images as fit into 256 MB, at least one.
template <typename T>
size_t soft_nms_workspace_bytes(const SoftTask<T>& task, int64_t batch);

// `task` has scores, boxes, results and taken_rows on the device; taken and taken_scores are not used.
template <typename T>
int launch_soft_nms(const SoftTask<T>& task, int64_t batch, void* workspace, CUstream_st* stream);

}  // namespace ssd_ops
