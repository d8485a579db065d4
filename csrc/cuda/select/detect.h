// Detections from raw outputs of a detector on the GPU; torch-free.
#pragma once

#include "cuda/select/select.h"

namespace ssd_ops {

// Candidates that an image can have at most: P * min(C - 1, 1 / threshold), as the scores of a prior add up to 1; one
// of each prior where only its best class counts.
template <typename T>
int64_t detect_capacity(const SelectTask<T>& task, bool best_only) {
  const double most = task.floor > T(0) ? 1.001 / static_cast<double>(task.floor) : 1e18;
  const int64_t foreground = best_only && task.classes > 1 ? 1 : task.classes - 1;
  return task.rows * (most < static_cast<double>(foreground) ? static_cast<int64_t>(most) : foreground);
}

// Bytes of workspace: the candidates of as many images as fit into 256 MB, at least one.
template <typename T>
size_t detect_workspace_bytes(const SelectTask<T>& task, int64_t batch, bool best_only) {
  return candidate_workspace_bytes<T>(batch, task.classes, detect_capacity(task, best_only));
}

// `task` has the logits and the results on the device; `best_only`: of each prior only its best class counts.
template <typename T>
int launch_detect(const SelectTask<T>& task, const BoxSource<T>& source, bool best_only, int64_t batch, void* workspace,
                  CUstream_st* stream);

}  // namespace ssd_ops
