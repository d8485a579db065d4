// Detections from scores and boxes on the GPU; torch-free.
#pragma once

#include "cuda/select/select.h"

namespace ssd_ops {

// Bytes of workspace: the candidates of as many images as fit into 256 MB, at least one; N * (C - 1) an image.
template <typename T>
size_t multiclass_nms_workspace_bytes(int64_t num_images, int64_t num_boxes, int64_t num_classes) {
  return candidate_workspace_bytes<T>(num_images, num_classes, num_boxes * (num_classes - 1));
}

// `params` has the scores and the results on the device.
template <typename T>
int launch_multiclass_nms(const SelectParams<T>& params, const BoxSource<T>& source, int64_t num_images,
                          void* workspace, CUstream_st* stream);

}  // namespace ssd_ops
