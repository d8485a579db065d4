// Detections from the raw outputs of a detector on the GPU; torch-free.
#pragma once

#include "cuda/select/select.h"

namespace ssd_ops {

// The maximum number of candidates of an image: P * min(C - 1, 1 / threshold), since the scores of a prior add up to 1;
// one per prior if only its best class counts.
template <typename T>
int64_t max_detect_candidates(const SelectParams<T>& params, bool best_only) {
  const double per_prior = params.score_threshold > T(0) ? 1.001 / static_cast<double>(params.score_threshold) : 1e18;
  const int64_t foreground = best_only && params.num_classes > 1 ? 1 : params.num_classes - 1;
  return params.num_boxes *
         (per_prior < static_cast<double>(foreground) ? static_cast<int64_t>(per_prior) : foreground);
}

// Bytes of workspace, see pruned_candidate_lists().
template <typename T>
size_t detect_workspace_bytes(const SelectParams<T>& params, int64_t num_images, bool best_only) {
  WorkspaceLayout layout(nullptr);
  pruned_candidate_lists(layout, num_images, params.num_classes, max_detect_candidates(params, best_only),
                         params.score_threshold);
  return layout.bytes();
}

// `logits` has rows of C, and `params` their dtype and the results on the device. `best_only`: only the best class of
// each prior counts.
template <typename T>
int launch_detect(const SelectParams<T>& params, const LevelPointers<const void>& logits, const BoxSource<T>& source,
                  bool best_only, int64_t num_images, void* workspace, CUstream_st* stream);

}  // namespace ssd_ops
