// Read in this order: select.h (candidates of images), candidates.cuh (one candidate and its sort key), append.cuh (how
// candidates are collected), candidate_lists.cu (their memory), next_chunk.cuh (sorted chunks), tile.cuh (the boxes of
// one tile), this file; then multiclass_nms.cu, detect.cu and soft_nms.cu, which collect.
//
// Plan: a block is an image. It takes the candidates in sorted chunks (next_chunk.cuh; a chunk is in shared memory) and
// visits them tile by tile until D are kept: cpu/select/select.h says why that equals suppression class by class. The
// threads compare each box of a tile with the boxes kept before, which are read from the results through shared memory,
// and with the boxes that precede it in the tile, a bit for each that suppresses it; then one warp resolves which boxes
// are kept. So shared memory limits neither classes nor boxes nor detections. An image whose candidates within the
// cutoff (select.h) do not suffice is collected again in the retry pass.
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

// Empties the list of an image and marks it for the retry pass.
__device__ void request_retry(const CandidateLists& lists, int64_t local_image, int64_t num_classes) {
  for (int64_t c = threadIdx.x; c < num_classes; c += kThreads)
    lists.num_visited_by_class[local_image * num_classes + c] = 0;
  if (threadIdx.x != 0) return;
  lists.counts[local_image] = 0;
  lists.cutoffs[local_image] = kNoCutoff;
  lists.needs_retry[local_image] = 1;
  atomicAdd(lists.num_retries, 1u);
}

// Fills the detections from `num_kept` on with 0.
template <typename T>
__device__ void zero_pad(const DetectionsOut<T>& out, int64_t image, int64_t num_kept) {
  for (int64_t d = num_kept + threadIdx.x; d < out.max_detections; d += kThreads) {
    reinterpret_cast<Box<T>*>(out.boxes)[image * out.max_detections + d] = Box<T>{};
    out.scores[image * out.max_detections + d] = T(0);
    out.labels[image * out.max_detections + d] = 0;
    out.box_indices[image * out.max_detections + d] = 0;
  }
  if (threadIdx.x == 0) out.counts[image] = num_kept;
}

template <bool with_suppression, typename T>
__global__ void __launch_bounds__(kThreads, 1)
    select_kernel(CandidateLists lists, BoxSource<T> source, SelectParams<T> params) {
  using C = candidate_t<T>;
  __shared__ C chunk[kChunk];
  __shared__ C last_visited;
  __shared__ CandidateTile<T> tile;
  wait_for_previous_kernel();
  const int64_t local_image = blockIdx.x;
  if (lists.retry && lists.needs_retry[local_image] == 0) return;
  const int64_t image = lists.first_image + local_image, max_detections = params.out.max_detections;
  const C* list = static_cast<const C*>(lists.items) + local_image * lists.capacity;
  const int64_t total = lists.counts[local_image] < lists.capacity ? lists.counts[local_image] : lists.capacity;
  const bool has_class_limit = total > params.candidates_per_class;  // else no class exceeds its limit
  const int64_t candidates_per_class = has_class_limit ? params.candidates_per_class : total;
  int* num_visited_by_class = has_class_limit ? lists.num_visited_by_class + local_image * params.num_classes : nullptr;
  // Most scores are expected between these.
  const C expected_first = make_candidate(T(1), 0u), expected_last = make_candidate(params.score_threshold, ~0u);
  const unsigned cutoff = lists.cutoffs[local_image];
  const candidate_key_t<C> cutoff_key = last_with_high_bits<C>(cutoff);
  int64_t num_kept = 0, num_visited = 0;
  for (bool more = true; more && num_kept < max_detections && num_visited < total;) {
    const int chunk_size = next_chunk<kThreads>(list, total, num_visited > 0 ? &last_visited : nullptr, expected_first,
                                                expected_last, chunk, kChunk, cutoff_key);
    more = chunk_size >= kChunk / 2;
    for (int first = 0; first < chunk_size && num_kept < max_detections; first += CandidateTile<T>::kSize) {
      const int count = chunk_size - first < CandidateTile<T>::kSize ? chunk_size - first : CandidateTile<T>::kSize;
      num_kept = visit_tile<with_suppression>(tile, chunk + first, count, num_kept, image, candidates_per_class,
                                              num_visited_by_class, source, params);
    }
    num_visited += chunk_size;
    if (threadIdx.x == 0 && chunk_size > 0) last_visited = chunk[chunk_size - 1];
    __syncthreads();
  }
  if (num_kept < max_detections && cutoff != kNoCutoff) return request_retry(lists, local_image, params.num_classes);
  zero_pad(params.out, image, num_kept);
}

}  // namespace

template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const SelectParams<T>& params,
                  bool with_suppression, CUstream_st* stream) {
  auto* kernel = with_suppression ? select_kernel<true, T> : select_kernel<false, T>;
  return launch_dependent(kernel, grid_blocks(lists.num_images, 1), kThreads, 0, stream, lists, source, params);
}

template int launch_select<float>(const CandidateLists&, const BoxSource<float>&, const SelectParams<float>&, bool,
                                  CUstream_st*);
template int launch_select<double>(const CandidateLists&, const BoxSource<double>&, const SelectParams<double>&, bool,
                                   CUstream_st*);

}  // namespace ssd_ops
