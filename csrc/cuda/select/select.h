// From the candidates of each image to its detections on the GPU: what multiclass_nms, detect and soft_nms share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/detections.h"
#include "core/dtype.h"
#include "cuda/common/workspace.h"

namespace ssd_ops {

// Where the box of a candidate comes from.
template <typename T>
struct BoxSource {
  const Box<T>* boxes;  // [B, N], or [B, N, C] if boxes_by_class; deltas if there are priors
  bool boxes_by_class;
  const Box<T>* priors;  // [N] or null
  Variances<T> variances;
  bool clip;
  // soft_nms: candidate c * class_capacity + k is the k-th box that class c has selected, with index
  // class_box_indices[b, c, k]. Null: candidate c * N + i is box i.
  const unsigned* class_box_indices;
  int64_t class_capacity;
};

// The candidates of some images of a batch, in workspace. `local_image` is the index of an image among them.
//
// If an image can have many candidates, low scores are pruned: `histogram` counts the candidates by the high bits of
// their sort keys (candidates.cuh), and once enough are found, `cutoffs` excludes those that follow. No candidate
// within the cutoff is ever pruned. So if the detections of an image are complete before the cutoff is reached, they do
// not depend on it; if they are not, the image is collected again in a retry pass without a cutoff.
struct CandidateLists {
  void* items;                // [num_images, capacity]
  unsigned* counts;           // [num_images]
  int* num_visited_by_class;  // [num_images, C]
  int64_t capacity;           // of one image
  int64_t first_image, num_images;
  unsigned* histogram;    // [num_images, kHistogramBins], aligned to 16; null: nothing is pruned
  unsigned* cutoffs;      // [num_images]: the highest high bits that are not pruned
  unsigned* needs_retry;  // [num_images]: flags
  unsigned* num_retries;  // [1]: how many flags are set
  unsigned low, shift;    // bin i has the high bits from low + (i << shift) on
  bool retry;             // the retry pass: only images that need it
};

constexpr int kHistogramBins = 512;
constexpr unsigned kMinWithinCutoff = 4096;  // a cutoff leaves at least this many candidates
constexpr unsigned kNoCutoff = ~0u;

// The lists of as many images as fit into some 256 MB, at least of one, with their candidates and `more_bytes` an image
// for the caller's own arrays. `prunes`: low scores may be pruned if there can be more than kMinWithinCutoff
// candidates.
template <typename T>
CandidateLists candidate_lists(WorkspaceLayout& layout, int64_t num_images, int64_t num_classes, int64_t capacity,
                               bool prunes, T score_threshold, int64_t more_bytes = 0);
template <typename T>
size_t candidate_workspace_bytes(int64_t num_images, int64_t num_classes, int64_t capacity);

// Empties the lists and removes the cutoffs.
int clear_candidates(const CandidateLists& lists, int64_t num_classes, CUstream_st* stream);

// Fills the detections of these images, with NMS in each class if `with_suppression`.
template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const SelectParams<T>& params,
                  bool with_suppression, CUstream_st* stream);

// Calls collect(lists) and launch_select for all images of the batch, in groups, each with a retry pass if candidates
// may be pruned.
template <typename T, typename Collect>
int collect_and_select(CandidateLists lists, int64_t num_images, const BoxSource<T>& source,
                       const SelectParams<T>& params, bool with_suppression, CUstream_st* stream, Collect&& collect) {
  unsigned* const histogram = lists.histogram;
  for (const int64_t step = lists.num_images; lists.first_image < num_images; lists.first_image += step) {
    lists.num_images = num_images - lists.first_image < step ? num_images - lists.first_image : step;
    lists.histogram = histogram;
    int status = clear_candidates(lists, params.num_classes, stream);
    for (int pass = 0; pass < (histogram != nullptr ? 2 : 1) && status == 0; ++pass) {
      lists.retry = pass == 1;
      if (lists.retry) lists.histogram = nullptr;
      status = collect(lists);
      if (status == 0) status = launch_select(lists, source, params, with_suppression, stream);
    }
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace ssd_ops
