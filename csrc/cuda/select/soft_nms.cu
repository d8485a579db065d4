// Plan: a block is a class of an image. Its living boxes (row and score) stand in workspace; each round every thread
// lowers the scores of its share by their overlap with the last box taken and finds the best of them, and the block
// agrees on the best of all: rounds until none lives or D are taken. What is taken becomes a candidate of the image,
// and select_kernel (select.cu), without suppression, merges the classes.
#include <limits>

#include "cuda/common/load.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/soft_nms.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }

__device__ __forceinline__ FloatCandidate shuffled(FloatCandidate c, int step) {
  return __shfl_xor_sync(kFullMask, c, step);
}
__device__ __forceinline__ DoubleCandidate shuffled(const DoubleCandidate& c, int step) {
  return {__shfl_xor_sync(kFullMask, c.key, step), __shfl_xor_sync(kFullMask, c.index, step)};
}

// The first of the candidates of all threads, which all of them get.
template <typename C>
__device__ C first_of_block(C mine) {
  __shared__ C firsts[kThreads / kWarpSize];
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const C other = shuffled(mine, step);
    if (stands_before(other, mine)) mine = other;
  }
  __syncthreads();  // all have read what the last call left
  if (threadIdx.x % kWarpSize == 0) firsts[threadIdx.x / kWarpSize] = mine;
  __syncthreads();
  mine = firsts[0];
  for (int w = 1; w < kThreads / kWarpSize; ++w)
    if (stands_before(firsts[w], mine)) mine = firsts[w];
  return mine;
}

template <typename T>
__device__ T lowered(T score, T iou, const SoftTask<T>& task) {
  const T overlap = iou != iou ? T(0) : iou;
  if (task.gaussian) return score * exponential(-(overlap * overlap) / task.sigma);
  return score * (overlap > task.iou_threshold ? T(1) - overlap : T(1));
}

template <typename In>
__global__ void __launch_bounds__(kThreads, 2) soft_nms_kernel(SoftTask<compute_t<In>> task, CandidateLists lists,
                                                               compute_t<In>* living_scores, unsigned* living_rows) {
  using T = compute_t<In>;
  using C = candidate_t<T>;
  __shared__ unsigned count;
  await_previous();
  const int64_t foreground = task.classes - 1, slot = blockIdx.x / foreground, label = blockIdx.x % foreground + 1;
  const int64_t image = lists.first + slot;
  T* scores = living_scores + blockIdx.x * task.rows;
  unsigned* rows = living_rows + blockIdx.x * task.rows;
  const auto box_of = [&](int64_t row) {
    const int64_t place = image * task.rows + row;
    return task.boxes[task.boxes_by_class ? place * task.classes + label : place];
  };
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  for (int64_t row = threadIdx.x; row < task.rows; row += kThreads) {
    const T score = widen(static_cast<const In*>(task.scores)[(image * task.rows + row) * task.classes + label]);
    if (!(score >= task.floor)) continue;
    const unsigned place = atomicAdd(&count, 1u);
    scores[place] = score;
    rows[place] = static_cast<unsigned>(row);
  }
  __syncthreads();
  const int64_t living = count;
  Box<T> taken{};
  T taken_area = 0;
  unsigned taken_row = ~0u;
  for (int64_t k = 0; k < task.room; ++k) {
    C best = last_candidate<C>();
    for (int64_t i = threadIdx.x; i < living; i += kThreads) {
      T score = scores[i];
      if (!(score >= task.floor)) continue;
      const unsigned row = rows[i];
      if (k > 0) {
        const Box<T> box = box_of(row);
        score =
            row == taken_row ? T(-INFINITY) : lowered(score, suppression_iou(taken, box, taken_area, area(box)), task);
        scores[i] = score;
        if (!(score >= task.floor)) continue;
      }
      const C mine = make_candidate(score, row);
      if (stands_before(mine, best)) best = mine;
    }
    best = first_of_block(best);
    if (!stands_before(best, last_candidate<C>())) break;
    taken_row = index_of(best);
    taken = box_of(taken_row);
    taken_area = area(taken);
    if (threadIdx.x != 0) continue;
    task.taken_rows[(image * task.classes + label) * task.room + k] = taken_row;
    const unsigned place = atomicAdd(&lists.counts[slot], 1u);
    static_cast<C*>(lists.items)[slot * lists.capacity + place] =
        make_candidate(score_of(best), static_cast<unsigned>(label * task.room + k));
  }
}

template <typename T>
int64_t living_bytes(const SoftTask<T>& task) {
  return round_up((task.classes - 1) * task.rows * static_cast<int64_t>(sizeof(T) + sizeof(unsigned)), 16);
}

// An item stands for what a class takes and, in units of items, for the living boxes.
template <typename T>
CandidateLists lists_of(const SoftTask<T>& task, int64_t batch, void* workspace) {
  const int64_t taken = (task.classes - 1) * task.room, item = candidate_bytes<T>();
  return candidate_lists(workspace, batch, task.classes, taken + ceil_div(living_bytes(task), item), false, task.floor);
}

}  // namespace

template <typename T>
size_t soft_nms_workspace_bytes(const SoftTask<T>& task, int64_t batch) {
  const CandidateLists lists = lists_of(task, batch, nullptr);
  return candidate_workspace_bytes<T>(batch, task.classes, lists.capacity);
}

template <typename T>
int launch_soft_nms(const SoftTask<T>& task, int64_t batch, void* workspace, CUstream_st* stream) {
  CandidateLists lists = lists_of(task, batch, workspace);
  const int64_t foreground = task.classes - 1, step = lists.images;
  lists.capacity = foreground * task.room;
  auto* living_scores = reinterpret_cast<T*>(static_cast<char*>(workspace) +
                                             step * lists.capacity * static_cast<int64_t>(candidate_bytes<T>()));
  auto* living_rows = reinterpret_cast<unsigned*>(living_scores + step * foreground * task.rows);
  const BoxSource<T> source{task.boxes, task.boxes_by_class, nullptr, {}, false, task.taken_rows, task.room};
  const SelectTask<T> select{
      nullptr, task.dtype, task.rows, task.classes, task.floor, std::numeric_limits<int64_t>::max(), {},
      T(0),    task.out,   1,         nullptr};
  return collect_and_select(lists, batch, source, select, false, stream, [&](const CandidateLists& group) {
    return dispatch_dtype(task.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch_next(soft_nms_kernel<In>, grid_blocks(group.images * foreground, 1), kThreads, 0, stream, task,
                           group, living_scores, living_rows);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  });
}

template size_t soft_nms_workspace_bytes<float>(const SoftTask<float>&, int64_t);
template size_t soft_nms_workspace_bytes<double>(const SoftTask<double>&, int64_t);
template int launch_soft_nms<float>(const SoftTask<float>&, int64_t, void*, CUstream_st*);
template int launch_soft_nms<double>(const SoftTask<double>&, int64_t, void*, CUstream_st*);

}  // namespace ssd_ops
