// Plan: collect_scores_kernel reads every score once, neighboring threads neighboring scores, 16 bytes a load where
// the images begin at 16 bytes, and kAhead loads before it waits for the first. It appends those at or above the floor
// to the candidates of their image; select_kernel (select.cu) does the rest, a block for each image.
#include "cuda/common/load.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/multiclass_nms.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kAhead = 4;

// Scores that a thread loads at once: 16 bytes, or one.
template <typename In, bool wide>
struct alignas(wide ? 16 : sizeof(In)) Scores {
  static constexpr int kCount = wide ? 16 / sizeof(In) : 1;
  In values[kCount];
};
template <typename In, bool wide>
constexpr int kScoresOfBlock = kThreads * kAhead * Scores<In, wide>::kCount;

template <bool wide, typename In>
__global__ void __launch_bounds__(kThreads) collect_scores_kernel(const In* scores, CandidateLists lists, unsigned rows,
                                                                  unsigned classes, compute_t<In> least) {
  using T = compute_t<In>;
  using Load = Scores<In, wide>;
  await_previous();
  if (lists.second && lists.again[lists.images] == 0) return;
  const int64_t numbers = static_cast<int64_t>(rows) * classes, loads = numbers / Load::kCount;
  for (int64_t slot = blockIdx.x; slot < lists.images; slot += gridDim.x) {
    if (lists.second && lists.again[slot] == 0) continue;
    const auto* from = reinterpret_cast<const Load*>(scores + (lists.first + slot) * numbers);
    for (int64_t first = static_cast<int64_t>(blockIdx.y) * (kThreads * kAhead); first < loads;
         first += static_cast<int64_t>(gridDim.y) * (kThreads * kAhead)) {
      const int left = static_cast<int>(loads - first < kThreads * kAhead ? loads - first : kThreads * kAhead);
      Load found[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int i = k * kThreads + static_cast<int>(threadIdx.x);
        found[k] = from[first + (i < left ? i : 0)];
      }
      const T floor = raised_floor(lists, slot, least);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int i = k * kThreads + static_cast<int>(threadIdx.x);
        bool any = false;
#pragma unroll
        for (int j = 0; j < Load::kCount; ++j) any = any || widen(found[k].values[j]) >= floor;
        if (!__any_sync(kFullMask, any && i < left)) continue;  // most warps are spared the division
#pragma unroll
        for (int j = 0; j < Load::kCount; ++j) {
          const T score = widen(found[k].values[j]);
          const auto place = (static_cast<unsigned>(first) + i) * Load::kCount + j;
          const unsigned row = place / classes, label = place % classes;
          append(lists, slot, i < left && score >= floor && label != 0, score, label * rows + row);
        }
      }
    }
  }
}

template <bool wide, typename In, typename T>
cudaError_t launch_collect(const SelectTask<T>& task, const CandidateLists& lists, cudaStream_t stream) {
  const dim3 grid = collect_grid(lists, ceil_div(task.rows * task.classes, kScoresOfBlock<In, wide>));
  return launch_next(collect_scores_kernel<wide, In>, grid, kThreads, 0, stream, static_cast<const In*>(task.scores),
                     lists, static_cast<unsigned>(task.rows), static_cast<unsigned>(task.classes), task.floor);
}

}  // namespace

template <typename T>
int launch_multiclass_nms(const SelectTask<T>& task, const BoxSource<T>& source, int64_t batch, void* workspace,
                          CUstream_st* stream) {
  const CandidateLists lists =
      candidate_lists(workspace, batch, task.classes, task.rows * (task.classes - 1), true, task.floor);
  return collect_and_select(lists, batch, source, task, true, stream, [&](const CandidateLists& group) {
    return dispatch_dtype(task.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        const bool wide = reinterpret_cast<uintptr_t>(task.scores) % 16 == 0 &&
                          task.rows * task.classes % Scores<In, true>::kCount == 0;
        return wide ? launch_collect<true, In>(task, group, stream) : launch_collect<false, In>(task, group, stream);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  });
}

template int launch_multiclass_nms<float>(const SelectTask<float>&, const BoxSource<float>&, int64_t, void*,
                                          CUstream_st*);
template int launch_multiclass_nms<double>(const SelectTask<double>&, const BoxSource<double>&, int64_t, void*,
                                           CUstream_st*);

}  // namespace ssd_ops
