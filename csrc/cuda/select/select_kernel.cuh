// Read in this order: select.h (candidates of images), candidates.cuh (one candidate and its sort key), append.cuh (how
// candidates are collected), candidate_lists.cu (their memory), next_chunk.cuh (sorted chunks), tile.cuh (the boxes of
// one tile), this file; then multiclass_nms.cu, detect.cu and soft_nms.cu, which collect.
//
// Plan: one block per image. It reads the candidates in sorted chunks (next_chunk.cuh; a chunk is in shared memory) and
// visits them tile by tile until D are kept: cpu/select/select.h says why that equals suppression class by class. The
// threads compare each box of a tile with the boxes kept before, which are read from the results through shared memory,
// and with the boxes that precede it in the tile, one bit per box that suppresses it; then one warp resolves which
// boxes are kept. So shared memory limits neither classes nor boxes nor detections. If the candidates of its list
// (select.h) do not suffice, the block refills the list with the next candidates, as often as needed: this is slow, but
// rare.
#pragma once

#include "cuda/select/next_chunk.cuh"
#include "cuda/select/select.h"
#include "cuda/select/tile.cuh"

namespace ssd_ops {
namespace {

constexpr int kChunk = 1024;

// Visits the candidates of one tile; returns the new number of detections. `num_visited_by_class` is null if no class
// exceeds candidates_per_class.
template <bool with_suppression, typename T>
__device__ int64_t visit_tile(CandidateTile<T>& tile, const candidate_t<T>* candidates, int count, int64_t num_kept,
                              int64_t image, int64_t candidates_per_class, int* num_visited_by_class,
                              const BoxSource<T>& source, const SelectParams<T>& params) {
  load_tile(tile, candidates, count, source, params, image);
  compare_tile<with_suppression>(tile, count, params.thresholds);
  if (with_suppression) suppress_by_kept(tile, count, num_kept, image, params);
  __syncthreads();
  limit_classes(tile, count, candidates_per_class, num_visited_by_class);
  __syncthreads();
  if (num_visited_by_class != nullptr) count_visited(tile, count, num_visited_by_class);
  if (threadIdx.x < kWarpSize) resolve_by_fixpoint(tile);
  __syncthreads();
  num_kept = write_kept(tile, candidates, num_kept, image, params);
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

// Visits candidates of an image until D are kept or none is left. All threads of the block have equal copies; `chunk`
// and `tile` are in shared memory.
template <bool with_suppression, typename T>
struct Selection {
  using C = candidate_t<T>;
  using Key = candidate_key_t<C>;

  const BoxSource<T>& source;
  const SelectParams<T>& params;
  const int64_t image;
  C* const chunk;  // [kChunk] in shared memory
  CandidateTile<T>& tile;
  int64_t candidates_per_class;
  int* num_visited_by_class;  // null if no class exceeds candidates_per_class
  // Most scores are expected between these.
  const C expected_first = make_candidate(T(1), 0u), expected_last = make_candidate(params.score_threshold, ~0u);
  int64_t num_kept = 0;

  __device__ bool complete() const { return num_kept == params.out.max_detections; }

  // Visits the candidates of the list with sort keys from `first` to `last`.
  __device__ void visit(const CandidateList<C>& list, Key first, Key last) {
    __shared__ C last_visited;
    int64_t num_visited = 0;
    for (bool more = true; more && !complete() && num_visited < list.count;) {
      const int chunk_size =
          next_chunk<kSelectThreads>(list, first, last, expected_first, expected_last, chunk, kChunk);
      more = chunk_size >= kChunk / 2;
      for (int begin = 0; begin < chunk_size && !complete(); begin += CandidateTile<T>::kSize) {
        const int count = chunk_size - begin < CandidateTile<T>::kSize ? chunk_size - begin : CandidateTile<T>::kSize;
        num_kept = visit_tile<with_suppression>(tile, chunk + begin, count, num_kept, image, candidates_per_class,
                                                num_visited_by_class, source, params);
      }
      num_visited += chunk_size;
      if (!more) return;
      if (threadIdx.x == 0) last_visited = chunk[chunk_size - 1];
      __syncthreads();
      first = sort_key(last_visited) + 1;
    }
  }
};

// For lists that always have all candidates.
struct NoRefill {};

template <bool with_suppression, typename T, typename Refill>
__global__ void __launch_bounds__(kSelectThreads, 1)
    select_kernel(CandidateLists lists, BoxSource<T> source, SelectParams<T> params, Refill refill) {
  using C = candidate_t<T>;
  using Key = candidate_key_t<C>;
  __shared__ C chunk[kChunk];
  __shared__ CandidateTile<T> tile;
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
      class_may_exceed_limit ? params.candidates_per_class : count,
      class_may_exceed_limit ? lists.num_visited_by_class + local_image * params.num_classes : nullptr};
  for (;;) {
    if constexpr (!std::is_same_v<Refill, NoRefill>) {
      if (!list_is_complete) {
        const auto all = refill.candidates_of(image);
        last = find_last_key<kSelectThreads, C>(all, first, sort_key(selection.expected_first),
                                                sort_key(selection.expected_last), static_cast<int>(lists.capacity));
        count = gather<kSelectThreads>(all, first, last, items);
      }
    }
    selection.visit({items, count}, first, last);
    if (selection.complete() || last == kMaxKey<C>) break;
    first = last + 1;
    list_is_complete = false;
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
