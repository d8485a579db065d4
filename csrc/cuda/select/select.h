// From the candidates of each image to its detections on the GPU: what multiclass_nms, detect and soft_nms share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/detections.h"
#include "core/dtype.h"
#include "core/levels.h"
#include "cuda/common/workspace.h"

namespace ssd_ops {

// Where the box of a candidate comes from.
template <typename T>
struct BoxSource {
  Levels levels;                    // of the N boxes of an image
  LevelPointers<const void> boxes;  // a box for each row, or C if boxes_by_class; deltas if there are priors
  Dtype boxes_dtype;
  bool boxes_by_class;
  const Box<T>* priors;  // [N] or null
  Variances<T> variances;
  bool clip;
  // soft_nms: candidate c * class_capacity + k is the k-th box that class c has selected, with index
  // class_box_indices[b, c, k]. Null: candidate c * N + i is box i.
  const unsigned* class_box_indices = nullptr;
  int64_t class_capacity = 0;
};

// The candidates of some images of a batch, in workspace. `local_image` is the index of an image among them.
//
// If an image can have many candidates, low scores are pruned: `histogram` counts the candidates by the high bits of
// their sort keys (candidates.cuh), and once enough are found, `cutoffs` excludes lower scores. No candidate within the
// cutoff is ever pruned. So if the detections of an image are complete before the cutoff is reached, they do not depend
// on it; if they are not, or if the list had no space for all candidates, select_kernel refills it.
struct CandidateLists {
  void* items;                // [num_images, capacity]
  unsigned* counts;           // [num_images]: appended candidates, including those for which there was no space
  int* num_visited_by_class;  // [num_images, C]
  int64_t capacity;           // of one image
  int64_t first_image, num_images;
  unsigned* histogram;  // [num_images, kHistogramBins], aligned to 16; null: nothing is pruned
  unsigned* cutoffs;    // [num_images]: the highest high bits that are not pruned
  unsigned low, shift;  // bin i has the high bits from low + (i << shift) on
};

constexpr int kHistogramBins = 512;
constexpr unsigned kMinWithinCutoff = 4096;  // at least this many candidates are within a cutoff
constexpr unsigned kNoCutoff = ~0u;

// The lists of as many images as fit into some 256 MB, at least one image, with `max_candidates` each and `more_bytes`
// per image for the caller's own arrays.
template <typename T>
CandidateLists candidate_lists(WorkspaceLayout& layout, int64_t num_images, int64_t num_classes, int64_t max_candidates,
                               int64_t more_bytes);

// The same for images with up to `max_candidates` each, of which low scores are pruned if that exceeds
// kMinWithinCutoff. All lists together take 15 MB, or more if a list would have a capacity below 61,440: in the worst
// case known 37,000 candidates of an image are not pruned.
template <typename T>
CandidateLists pruned_candidate_lists(WorkspaceLayout& layout, int64_t num_images, int64_t num_classes,
                                      int64_t max_candidates, T score_threshold);

// Empties the lists and removes the cutoffs.
int clear_candidates(const CandidateLists& lists, int64_t num_classes, CUstream_st* stream);

// Calls collect(lists), which appends the candidates, and select(lists) for all images of the batch, in groups.
template <typename Collect, typename Select>
int collect_and_select(CandidateLists lists, int64_t num_images, int64_t num_classes, CUstream_st* stream,
                       Collect&& collect, Select&& select) {
  for (const int64_t step = lists.num_images; lists.first_image < num_images; lists.first_image += step) {
    lists.num_images = num_images - lists.first_image < step ? num_images - lists.first_image : step;
    int status = clear_candidates(lists, num_classes, stream);
    if (status == 0) status = collect(lists);
    if (status == 0) status = select(lists);
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace ssd_ops
