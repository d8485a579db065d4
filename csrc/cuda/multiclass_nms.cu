// Plan: collect_scores_kernel reads every score once, neighbouring threads neighbouring scores, and appends those at or above the
// floor to the candidates of their image; select_kernel (select.cu) does the rest, a block for each image.
#include "cuda/multiclass_nms.h"

#include "cuda/append.cuh"
#include "cuda/load.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256;

template <typename In>
__global__ void __launch_bounds__(kThreads)
    collect_scores_kernel(const In* scores, CandidateLists lists, unsigned rows, unsigned classes, compute_t<In> floor,
                          int64_t blocks_an_image) {
  const int64_t numbers = static_cast<int64_t>(rows) * classes;
  for (int64_t b = blockIdx.x; b < lists.images * blocks_an_image; b += gridDim.x) {
    const int64_t slot = b / blocks_an_image;
    const int64_t i = b % blocks_an_image * kThreads + threadIdx.x;
    compute_t<In> score = 0;
    unsigned row = 0, label = 0;
    if (i < numbers) {
      score = widen(scores[(lists.first + slot) * numbers + i]);
      row = static_cast<unsigned>(i) / classes;
      label = static_cast<unsigned>(i) % classes;
    }
    append(lists, slot, label != 0 && score >= floor, score, label * rows + row);
  }
}

}  // namespace

template <typename T>
int launch_multiclass_nms(const cpu::SelectTask<T>& task, const BoxSource<T>& source, int64_t batch, void* workspace,
                          CUstream_st* stream) {
  const int64_t numbers = task.rows * task.classes, blocks_an_image = ceil_div(numbers, kThreads);
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
        return launch(collect_scores_kernel<In>, grid_blocks(lists.images * blocks_an_image, 1, 1 << 20), kThreads, 0, stream,
                      static_cast<const In*>(task.scores), lists, static_cast<unsigned>(task.rows),
                      static_cast<unsigned>(task.classes), task.floor, blocks_an_image);
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

template int launch_multiclass_nms<float>(const cpu::SelectTask<float>&, const BoxSource<float>&, int64_t, void*, CUstream_st*);
template int launch_multiclass_nms<double>(const cpu::SelectTask<double>&, const BoxSource<double>&, int64_t, void*,
                                           CUstream_st*);

}  // namespace ssd_ops
