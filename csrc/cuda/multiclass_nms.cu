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
                                                                  unsigned classes, compute_t<In> floor) {
  using T = compute_t<In>;
  const int64_t numbers = static_cast<int64_t>(rows) * classes;
  for (int64_t slot = blockIdx.y; slot < lists.images; slot += gridDim.y) {
    const In* from = scores + (lists.first + slot) * numbers;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * kScores; first < numbers;
         first += static_cast<int64_t>(gridDim.x) * kScores) {
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
  const unsigned blocks = grid_blocks(task.rows * task.classes, kScores, 1 << 16);
  CandidateLists lists =
      candidate_lists(workspace, batch, task.classes, task.rows * (task.classes - 1), candidate_bytes<T>());
  const int64_t step = lists.images;
  for (; lists.first < batch; lists.first += step) {
    lists.images = batch - lists.first < step ? batch - lists.first : step;
    int status = clear_candidates(lists, task.classes, stream);
    if (status != cudaSuccess) return status;
    status = dispatch_dtype(task.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        const dim3 grid(blocks, grid_blocks(lists.images, 1, kMaxGridYZ));
        return launch(collect_scores_kernel<In>, grid, kThreads, 0, stream, static_cast<const In*>(task.scores), lists,
                      static_cast<unsigned>(task.rows), static_cast<unsigned>(task.classes), task.floor);
      } else {
        return cudaErrorInvalidValue;
      }
    });
    if (status != cudaSuccess) return status;
    status = launch_select(lists, source, task, true, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

template int launch_multiclass_nms<float>(const cpu::SelectTask<float>&, const BoxSource<float>&, int64_t, void*,
                                          CUstream_st*);
template int launch_multiclass_nms<double>(const cpu::SelectTask<double>&, const BoxSource<double>&, int64_t, void*,
                                           CUstream_st*);

}  // namespace ssd_ops
