// Read in this order: select.h (candidates of images), candidates.cuh (one candidate and its sort key), append.cuh (how
// candidates are collected), candidate_lists.cu (their memory), next_chunk.cuh (sorted chunks), tile.cuh (the boxes of
// one tile), this file; then multiclass_nms.cu, detect.cu and soft_nms.cu, which collect.
//
// Plan: a block is an image. It takes the candidates in sorted chunks (next_chunk.cuh; a chunk is in shared memory) and
// visits them tile by tile until D are kept: cpu/select/select.h says why that equals suppression class by class. The
// threads compare each box of a tile with the boxes kept before, which are read from the results through shared memory,
// and with the boxes that precede it in the tile, a bit for each that suppresses it; then one warp resolves which boxes
// are kept. So shared memory limits neither classes nor boxes nor detections. An image whose candidates within the
// bound (select.h) do not suffice is collected again in the retry pass.
#include "cuda/select/next_chunk.cuh"
#include "cuda/select/select.h"
#include "cuda/select/tile.cuh"

namespace ssd_ops {
namespace {

constexpr int kChunk = 1024;

// Visits the candidates of one tile; returns the new number of detections. `visited` is null if no class exceeds
// candidates_per_class.
template <bool with_suppression, typename T>
__device__ int64_t visit_tile(Tile<T>& tile, const candidate_t<T>* candidates, int count, int64_t num_kept,
                              int64_t image, int64_t candidates_per_class, int* visited, const BoxSource<T>& source,
                              const SelectTask<T>& task) {
  load_tile(tile, candidates, count, source, task, image);
  compare_tile<with_suppression>(tile, count, task.rule);
  if (with_suppression) suppress_by_kept(tile, count, num_kept, image, task);
  __syncthreads();
  limit_classes(tile, count, candidates_per_class, visited);
  __syncthreads();
  if (visited != nullptr) count_visited(tile, count, visited);
  if (threadIdx.x < kWarpSize) resolve_tile(tile);
  __syncthreads();
  num_kept = write_kept(tile, candidates, num_kept, image, task);
  __syncthreads();
  return num_kept;
}

// Empties the list of an image and marks it for the retry pass.
__device__ void request_retry(const CandidateLists& lists, int64_t slot, int64_t num_classes) {
  for (int64_t c = threadIdx.x; c < num_classes; c += kThreads) lists.visited[slot * num_classes + c] = 0;
  if (threadIdx.x != 0) return;
  lists.counts[slot] = 0;
  lists.bounds[slot] = kNoBound;
  lists.needs_retry[slot] = 1;
  atomicAdd(&lists.needs_retry[lists.num_images], 1u);
}

// Fills the detections from `num_kept` on with 0.
template <typename T>
__device__ void zero_pad(const DetectionsOut<T>& out, int64_t image, int64_t num_kept) {
  for (int64_t d = num_kept + threadIdx.x; d < out.max_detections; d += kThreads) {
    reinterpret_cast<Box<T>*>(out.boxes)[image * out.max_detections + d] = Box<T>{};
    out.scores[image * out.max_detections + d] = T(0);
    out.labels[image * out.max_detections + d] = 0;
    out.rows[image * out.max_detections + d] = 0;
  }
  if (threadIdx.x == 0) out.counts[image] = num_kept;
}

template <bool with_suppression, typename T>
__global__ void __launch_bounds__(kThreads, 1)
    select_kernel(CandidateLists lists, BoxSource<T> source, SelectTask<T> task) {
  using C = candidate_t<T>;
  __shared__ C chunk[kChunk];
  __shared__ C last;
  __shared__ Tile<T> tile;
  await_previous();
  const int64_t slot = blockIdx.x;
  if (lists.retry && lists.needs_retry[slot] == 0) return;
  const int64_t image = lists.first_image + slot, max_detections = task.out.max_detections;
  const C* list = static_cast<const C*>(lists.items) + slot * lists.capacity;
  const int64_t total = lists.counts[slot] < lists.capacity ? lists.counts[slot] : lists.capacity;
  const bool limited = total > task.candidates_per_class;  // else no class exceeds its limit
  const int64_t candidates_per_class = limited ? task.candidates_per_class : total;
  int* visited = limited ? lists.visited + slot * task.num_classes : nullptr;
  // Most scores are expected between these.
  const C best = make_candidate(T(1), 0u), worst = make_candidate(task.score_threshold, ~0u);
  const unsigned bound = lists.bounds[slot];
  const candidate_key_t<C> limit = last_with_high_bits<C>(bound);
  int64_t num_kept = 0, num_visited = 0;
  for (bool more = true; more && num_kept < max_detections && num_visited < total;) {
    const int chunk_size =
        next_chunk<kThreads>(list, total, num_visited > 0 ? &last : nullptr, best, worst, chunk, kChunk, limit);
    more = chunk_size >= kChunk / 2;
    for (int first = 0; first < chunk_size && num_kept < max_detections; first += Tile<T>::kSize) {
      const int count = chunk_size - first < Tile<T>::kSize ? chunk_size - first : Tile<T>::kSize;
      num_kept = visit_tile<with_suppression>(tile, chunk + first, count, num_kept, image, candidates_per_class,
                                              visited, source, task);
    }
    num_visited += chunk_size;
    if (threadIdx.x == 0 && chunk_size > 0) last = chunk[chunk_size - 1];
    __syncthreads();
  }
  if (num_kept < max_detections && bound != kNoBound) return request_retry(lists, slot, task.num_classes);
  zero_pad(task.out, image, num_kept);
}

}  // namespace

template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const SelectTask<T>& task,
                  bool with_suppression, CUstream_st* stream) {
  auto* kernel = with_suppression ? select_kernel<true, T> : select_kernel<false, T>;
  return launch_next(kernel, grid_blocks(lists.num_images, 1), kThreads, 0, stream, lists, source, task);
}

template int launch_select<float>(const CandidateLists&, const BoxSource<float>&, const SelectTask<float>&, bool,
                                  CUstream_st*);
template int launch_select<double>(const CandidateLists&, const BoxSource<double>&, const SelectTask<double>&, bool,
                                   CUstream_st*);

}  // namespace ssd_ops
