// Detections from scores and boxes on the GPU; torch-free.
#pragma once

#include "cuda/select/select.h"

namespace ssd_ops {

// Bytes of workspace, see pruned_candidate_lists().
template <typename T>
size_t multiclass_nms_workspace_bytes(const SelectParams<T>& params, int64_t num_images);

// `params` has the scores and the results on the device.
template <typename T>
int launch_multiclass_nms(const SelectParams<T>& params, const BoxSource<T>& source, int64_t num_images,
                          void* workspace, CUstream_st* stream);

}  // namespace ssd_ops
