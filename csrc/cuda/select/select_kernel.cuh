// Read in this order: select.h (candidates of images), candidates.cuh (one candidate and its sort key), append.cuh (how
// candidates are collected), candidate_lists.cu (their memory), next_chunk.cuh (which candidates are next),
// sorted_chunk.cuh (they and their boxes in order), tile.cuh (the boxes of one tile), this file; then
// multiclass_nms.cu, detect.cu and soft_nms.cu, which collect.
//
// Plan: one block per image. It reads the candidates in sorted chunks, which are in shared memory, and visits them tile
// by tile until D are kept: cpu/select/select.h says why that equals suppression class by class. The threads compare
// each box of a tile with the boxes kept before, which are read from the results through shared memory, and with the
// boxes that precede it in the tile, one bit per box that suppresses it; then they resolve together which boxes are
// kept. So shared memory limits neither classes nor boxes nor detections. If the candidates of its list (select.h) do
// not suffice, the block refills the list with the next candidates, as often as needed: this is slow, but rare. What
// most images do not need is not inlined: the code of the rest is executed once per image, and loading it takes as long
// as executing it.
#pragma once

#include "cuda/select/next_chunk.cuh"
#include "cuda/select/select.h"
#include "cuda/select/tile.cuh"

namespace ssd_ops {
namespace {

// Visits the candidates of one tile; returns the new number of detections. `num_visited_by_class` is null if no class
// exceeds candidates_per_class.
template <bool with_suppression, typename T>
__device__ int64_t visit_tile(const TileBoxes<T>& boxes, CandidateTile<T>& tile, int64_t num_kept, int64_t image,
                              int64_t candidates_per_class, int* num_visited_by_class, const SelectParams<T>& params) {
  constexpr int kWords = CandidateTile<T>::kWords;
  const int label_bits = num_label_bits(params.num_classes), thread = threadIdx.x;
  if (with_suppression) {
    if (thread < CandidateTile<T>::kSize) compare_with_preceding(boxes, label_bits, params.thresholds, tile);
    if (num_kept > 0) suppress_by_kept(boxes, num_kept, image, params, tile);
  }
  if (num_visited_by_class != nullptr) limit_classes(boxes, label_bits, candidates_per_class, num_visited_by_class);
  __syncthreads();
  if (with_suppression) {
    resolve_by_fixpoint(boxes, tile);
  } else {
    if (thread < kWords)
      tile.kept[thread] = thread * kWarpSize < boxes.count ? boxes.chunk.active[boxes.first_word() + thread] : 0;
    __syncthreads();
  }
  num_kept = write_kept(boxes, tile, num_kept, image, params);
  __syncthreads();
  return num_kept;
}

// Fills the detections from `num_kept` on with 0.
template <typename T>
__device__ void zero_pad(const DetectionsOut<T>& out, int64_t image, int64_t num_kept) {
  for (int64_t d = num_kept + threadIdx.x; d < out.max_detections; d += kSelectThreads) {
    reinterpret_cast<Box<T>*>(out.boxes)[image * out.max_detections + d] = Box<T>{};
    out.scores[image * out.max_detections + d] = T(0);
    out.labels[image * out.max_detections + d] = 0;
    out.box_indices[image * out.max_detections + d] = 0;
  }
  if (threadIdx.x == 0) out.counts[image] = num_kept;
}

// The last sort key of the first chunk of a list, by the histogram of its candidates: between half of `capacity` and
// `capacity` candidates are up to it. kMaxKey if there is no such key at the end of a bin, or no histogram.
template <typename C>
__device__ candidate_key_t<C> find_first_chunk(const CandidateLists& lists, int64_t local_image, int capacity) {
  static_assert(kHistogramBins == kSelectThreads, "a bin for each thread");
  __shared__ unsigned last;
  const unsigned bin = threadIdx.x;
  if (lists.histogram == nullptr) return kMaxKey<C>;
  if (bin == 0) last = kNoCutoff;
  const int in_bin = static_cast<int>(lists.histogram[local_image * kHistogramBins + bin]);
  int total;
  const int before = block_exclusive_sum(in_bin, &total), up_to = before + in_bin;
  // The last bin also counts everything beyond the range.
  if (before < capacity / 2 && up_to >= capacity / 2 && up_to <= capacity && bin < kHistogramBins - 1)
    last = lists.low + ((bin + 1) << lists.shift) - 1;
  __syncthreads();
  return last_with_high_bits<C>(last);
}

// Visits candidates of an image until D are kept or none is left. All threads of the block have equal copies; `chunk`,
// `tile` and `bins` are in shared memory.
template <bool with_suppression, typename T>
struct Selection {
  using C = candidate_t<T>;
  using Key = candidate_key_t<C>;
  static constexpr int kChunk = SortedChunk<T>::kSize, kTile = CandidateTile<T>::kSize;

  const BoxSource<T>& source;
  const SelectParams<T>& params;
  const int64_t image;
  SortedChunk<T>& chunk;
  CandidateTile<T>& tile;
  unsigned* bins;  // see find_last_key()
  int64_t candidates_per_class;
  int* num_visited_by_class;  // null if no class exceeds candidates_per_class
  int64_t num_kept = 0;

  __device__ bool complete() const { return num_kept == params.out.max_detections; }

  // Most scores are expected between these.
  __device__ Key expected_first() const { return sort_key(make_candidate(T(1), 0u)); }
  __device__ Key expected_last() const { return sort_key(make_candidate(params.score_threshold, ~0u)); }

  // Visits the candidates of the list with sort keys from `first` to `last`, in chunks; `last_of_chunk` is the last one
  // of the first chunk, kMaxKey if it is not known.
  __device__ void visit(const CandidateList<C>& list, Key first, Key last, Key last_of_chunk) {
    while (!complete()) {
      if (last_of_chunk == kMaxKey<C> && list.count > kChunk)
        last_of_chunk = find_last_key<kSelectThreads, C>(list, first, expected_first(), expected_last(), kChunk, bins);
      if (last < last_of_chunk) last_of_chunk = last;
      const int count = load_chunk(chunk, list, first, last_of_chunk, source, params, image);
      for (int begin = 0; begin < count && !complete(); begin += kTile) {
        const TileBoxes<T> boxes{chunk, begin, count - begin < kTile ? count - begin : kTile};
        num_kept = visit_tile<with_suppression>(boxes, tile, num_kept, image, candidates_per_class,
                                                num_visited_by_class, params);
      }
      if (last_of_chunk == last) return;
      first = last_of_chunk + 1;
      last_of_chunk = kMaxKey<C>;
    }
  }
};

// For lists that always have all candidates.
struct NoRefill {};

// A list after a refill.
template <typename C>
struct Refilled {
  candidate_key_t<C> last;  // the list has all candidates from `first` to this one
  int count;
};

// Fills the list with the next candidates, from `first` on. It is rare and must not cost registers in select_kernel, so
// it is not inlined.
template <typename Refill, typename C, typename Key = candidate_key_t<C>>
__device__ __noinline__ Refilled<C> refill_list(const Refill& refill, int64_t image, Key first, Key expected_first,
                                                Key expected_last, int capacity, unsigned* bins, C* items) {
  const auto all = refill.candidates_of(image);
  const Key last = find_last_key<kSelectThreads, C>(all, first, expected_first, expected_last, capacity, bins);
  return {last, gather<kSelectThreads>(all, first, last, items)};
}

template <bool with_suppression, typename T, typename Refill>
__global__ void __launch_bounds__(kSelectThreads, 1)
    select_kernel(CandidateLists lists, BoxSource<T> source, SelectParams<T> params,
                  const __grid_constant__ Refill refill) {
  using C = candidate_t<T>;
  using Key = candidate_key_t<C>;
  __shared__ SortedChunk<T> chunk;
  __shared__ CandidateTile<T> tile;
  __shared__ unsigned bins[kBins];
  wait_for_previous_kernel();
  const int64_t local_image = blockIdx.x, image = lists.first_image + local_image;
  int64_t count = lists.counts[local_image];
  bool list_is_complete = count <= lists.capacity;  // whether the list has all candidates from `first` to `last`
  Key first = 0, last = last_with_high_bits<C>(lists.cutoffs[local_image]);
  const bool has_all = list_is_complete && last == kMaxKey<C>,
             class_may_exceed_limit = !has_all || count > params.candidates_per_class;
  C* const items = static_cast<C*>(lists.items) + local_image * lists.capacity;
  Selection<with_suppression, T> selection{
      source,
      params,
      image,
      chunk,
      tile,
      bins,
      class_may_exceed_limit ? params.candidates_per_class : count,
      class_may_exceed_limit ? lists.num_visited_by_class + local_image * params.num_classes : nullptr};
  constexpr int kChunk = SortedChunk<T>::kSize;
  Key last_of_first_chunk =
      count > kChunk && list_is_complete ? find_first_chunk<C>(lists, local_image, kChunk) : kMaxKey<C>;
  for (;;) {
    if constexpr (!std::is_same_v<Refill, NoRefill>) {
      if (!list_is_complete) {
        const Refilled<C> list = refill_list(refill, image, first, selection.expected_first(),
                                             selection.expected_last(), static_cast<int>(lists.capacity), bins, items);
        last = list.last;
        count = list.count;
      }
    }
    selection.visit({items, count}, first, last, last_of_first_chunk);
    if (selection.complete() || last == kMaxKey<C>) break;
    first = last + 1;
    list_is_complete = false;
    last_of_first_chunk = kMaxKey<C>;
  }
  zero_pad(params.out, image, selection.num_kept);
}

// Fills the detections of these images, with NMS in each class if `with_suppression`. `refill.candidates_of(image)` has
// all candidates of an image, for lists that may be pruned or too short.
template <bool with_suppression, typename T, typename Refill>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const SelectParams<T>& params,
                  const Refill& refill, cudaStream_t stream) {
  return launch_dependent(select_kernel<with_suppression, T, Refill>, grid_blocks(lists.num_images, 1), kSelectThreads,
                          0, stream, lists, source, params, refill);
}

}  // namespace
}  // namespace ssd_ops
