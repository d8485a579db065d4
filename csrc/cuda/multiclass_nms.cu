// Plan: collect_scores_kernel reads every score once, neighbouring threads neighbouring scores and kAhead of them
// before it waits for the first, and appends those at or above the floor to the candidates of their image;
// select_kernel (select.cu) does the rest, a block for each image.
#include "cuda/append.cuh"
#include "cuda/load.cuh"
#include "cuda/multiclass_nms.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kAhead = 4, kScores = kThreads * kAhead;

template <typename In>
__global__ void __launch_bounds__(kThreads) collect_scores_kernel(const In* scores, CandidateLists lists, unsigned rows,
                                                                  unsigned classes, compute_t<In> least) {
  using T = compute_t<In>;
  if (lists.second && lists.again[lists.images] == 0) return;
  const int64_t numbers = static_cast<int64_t>(rows) * classes;
  for (int64_t slot = blockIdx.x; slot < lists.images; slot += gridDim.x) {
    if (lists.second && lists.again[slot] == 0) continue;
    const In* from = scores + (lists.first + slot) * numbers;
    for (int64_t first = static_cast<int64_t>(blockIdx.y) * kScores; first < numbers;
         first += static_cast<int64_t>(gridDim.y) * kScores) {
      const T floor = raised_floor(lists, slot, least);
      T found[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int64_t i = first + k * kThreads + threadIdx.x;
        found[k] = i < numbers ? widen(from[i]) : T(NAN);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const bool counts = found[k] >= floor;
        if (!__any_sync(kFullMask, counts)) continue;  // most warps are spared the division
        const auto i = static_cast<unsigned>(first + k * kThreads + threadIdx.x);
        const unsigned row = i / classes, label = i % classes;
        append(lists, slot, counts && label != 0, found[k], label * rows + row);
      }
    }
  }
}

}  // namespace

template <typename T>
int launch_multiclass_nms(const cpu::SelectTask<T>& task, const BoxSource<T>& source, int64_t batch, void* workspace,
                          CUstream_st* stream) {
  const CandidateLists lists =
      candidate_lists(workspace, batch, task.classes, task.rows * (task.classes - 1), true, task.floor);
  return collect_and_select(lists, batch, source, task, true, stream, [&](const CandidateLists& group) {
    const dim3 grid = collect_grid(group, ceil_div(task.rows * task.classes, kScores));
    return dispatch_dtype(task.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch(collect_scores_kernel<In>, grid, kThreads, 0, stream, static_cast<const In*>(task.scores), group,
                      static_cast<unsigned>(task.rows), static_cast<unsigned>(task.classes), task.floor);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  });
}

template int launch_multiclass_nms<float>(const cpu::SelectTask<float>&, const BoxSource<float>&, int64_t, void*,
                                          CUstream_st*);
template int launch_multiclass_nms<double>(const cpu::SelectTask<double>&, const BoxSource<double>&, int64_t, void*,
                                           CUstream_st*);

}  // namespace ssd_ops
