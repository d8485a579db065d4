// Detections from raw outputs of a detector on the GPU; torch-free.
#pragma once

#include "cuda/select.h"

namespace ssd_ops {

// Candidates that an image can have at most: P * min(C - 1, 1 / threshold), as the scores of a prior add up to 1.
template <typename T>
int64_t detect_capacity(int64_t rows, int64_t classes, T floor) {
  const double most = floor > T(0) ? 1.001 / static_cast<double>(floor) : 1e18;
  return rows * (most < static_cast<double>(classes - 1) ? static_cast<int64_t>(most) : classes - 1);
}

// Bytes of workspace: the candidates of as many images as fit into 256 MB, at least one.
template <typename T>
size_t detect_workspace_bytes(int64_t batch, int64_t rows, int64_t classes, T floor) {
  return candidate_workspace_bytes(batch, classes, detect_capacity(rows, classes, floor), candidate_bytes<T>());
}

// `task` has the logits and the results on the device.
template <typename T>
int launch_detect(const cpu::SelectTask<T>& task, const BoxSource<T>& source, int64_t batch, void* workspace,
                  CUstream_st* stream);

}  // namespace ssd_ops
