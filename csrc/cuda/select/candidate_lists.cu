// The lists of candidates: their layout in the workspace, and their initialization.
#include "core/ordered_key.h"
#include "cuda/common/launch.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {
namespace {

constexpr int64_t kListBytes = int64_t(256) << 20;
// Lists that are pruned have kMinCapacity candidates, more where those of all images fit into kPrunedListBytes.
#ifdef SSD_OPS_EMULATED
constexpr int64_t kPrunedListBytes = 0, kMinCapacity = kMinWithinCutoff + 1024;  // the tests fill them
#else
constexpr int64_t kPrunedListBytes = int64_t(15) << 20, kMinCapacity = 61440;
#endif

__global__ void clear_kernel(CandidateLists lists, int64_t num_classes) {
  wait_for_previous_kernel();
  const int64_t thread = global_thread_index(), threads = num_global_threads();
  for (int64_t i = thread; i < lists.num_images; i += threads) {
    lists.counts[i] = 0;
    lists.cutoffs[i] = kNoCutoff;
  }
  for (int64_t i = thread; i < lists.num_images * num_classes; i += threads) lists.num_visited_by_class[i] = 0;
  if (lists.histogram == nullptr) return;
  for (int64_t i = thread; i < lists.num_images * kHistogramBins; i += threads) lists.histogram[i] = 0;
}

// Bytes of a candidate, see candidates.cuh.
template <typename T>
constexpr int64_t candidate_bytes() {
  return sizeof(T) == sizeof(float) ? 8 : 16;
}

int64_t images_at_once(int64_t num_images, int64_t image_bytes) {
  const int64_t fit = kListBytes / (image_bytes + 1);
  return fit < 1 ? 1 : fit < num_images ? fit : num_images;
}

// The high bits of the sort key of a candidate with this score.
template <typename T>
unsigned high_bits_of_score(T score) {
  return static_cast<unsigned>(descending_key(score) >> (8 * sizeof(T) - 32));
}

}  // namespace

int clear_candidates(const CandidateLists& lists, int64_t num_classes, CUstream_st* stream) {
  const int64_t per_image = num_classes > kHistogramBins ? num_classes : kHistogramBins;
  return launch(clear_kernel, grid_blocks(lists.num_images * per_image, 256, 1024), 256, 0, stream, lists, num_classes);
}

template <typename T>
CandidateLists candidate_lists(WorkspaceLayout& layout, int64_t num_images, int64_t num_classes, int64_t max_candidates,
                               int64_t more_bytes) {
  CandidateLists lists{};
  lists.capacity = max_candidates;
  lists.num_images = images_at_once(num_images, max_candidates * candidate_bytes<T>() + more_bytes);
  lists.items = layout.array(lists.num_images * max_candidates, candidate_bytes<T>());
  lists.num_visited_by_class = layout.array<int>(lists.num_images * num_classes);
  lists.cutoffs = layout.array<unsigned>(lists.num_images);
  lists.counts = layout.array<unsigned>(lists.num_images);
  return lists;
}

template <typename T>
CandidateLists pruned_candidate_lists(WorkspaceLayout& layout, int64_t num_images, int64_t num_classes,
                                      int64_t max_candidates, T score_threshold) {
  int64_t capacity = kPrunedListBytes / (num_images * candidate_bytes<T>());
  if (capacity < kMinCapacity) capacity = kMinCapacity;
  if (capacity > max_candidates) capacity = max_candidates;
  CandidateLists lists = candidate_lists<T>(layout, num_images, num_classes, capacity, 0);
  if (max_candidates <= kMinWithinCutoff) return lists;
  lists.histogram = layout.array<unsigned>(lists.num_images * kHistogramBins);
  lists.low = high_bits_of_score(T(1));
  const unsigned high = high_bits_of_score(score_threshold);
  while (high > lists.low && (high - lists.low) >> lists.shift >= kHistogramBins) ++lists.shift;
  return lists;
}

template CandidateLists candidate_lists<float>(WorkspaceLayout&, int64_t, int64_t, int64_t, int64_t);
template CandidateLists candidate_lists<double>(WorkspaceLayout&, int64_t, int64_t, int64_t, int64_t);
template CandidateLists pruned_candidate_lists<float>(WorkspaceLayout&, int64_t, int64_t, int64_t, float);
template CandidateLists pruned_candidate_lists<double>(WorkspaceLayout&, int64_t, int64_t, int64_t, double);

}  // namespace ssd_ops
