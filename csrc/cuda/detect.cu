// Plan: in collect_logits_kernel a warp is a prior. It reads the logits once and is done where none leads the
// background far enough for the threshold; else it takes the softmax (the row is in the cache) and appends the scores
// that count to the candidates of the image. select_kernel (select.cu) does the rest, a block for each image, and
// decodes only the boxes it looks at.
#include <limits>

#include "cuda/append.cuh"
#include "cuda/detect.h"
#include "cuda/load.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float magnitude(float x) { return fabsf(x); }
__device__ __forceinline__ double magnitude(double x) { return fabs(x); }

// A NaN or inf among the logits makes the sum NaN, and then no score counts.
template <typename In, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    collect_logits_kernel(const In* logits, CandidateLists lists, int64_t rows, int classes, T floor, T lead, T epsilon,
                          bool best_only) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * kWarps, all = lists.images * rows;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize; i < all; i += warps) {
    const In* logit = logits + (lists.first * rows + i) * classes;
    const T background = widen(logit[0]);
    T top = background;
    bool leads = !(floor > T(0));
    const T near = background + lead - (magnitude(background) + magnitude(lead)) * epsilon;
    const T limit = best_only ? greater(near, background) : near;
    for (int c = lane; c < classes; c += kWarpSize) {
      const T x = widen(logit[c]);
      top = greater(x, top);
      leads = leads || (c > 0 && x > limit);
    }
    if (!__any_sync(kFullMask, leads)) continue;
    for (int step = kWarpSize / 2; step > 0; step /= 2) top = greater(__shfl_xor_sync(kFullMask, top, step), top);
    T sum = 0;
    for (int c = lane; c < classes; c += kWarpSize) sum += exponential(widen(logit[c]) - top);
    for (int step = kWarpSize / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullMask, sum, step);
    const unsigned row = static_cast<unsigned>(i % rows);
    for (int first = 0; first < classes; first += kWarpSize) {
      const int c = first + lane;
      const T x = c < classes ? widen(logit[c]) : T(0);
      const bool is_class = c > 0 && c < classes, is_best = c < classes && x == top;
      const unsigned bests = __ballot_sync(kFullMask, is_best);
      const bool counts = is_class && (!best_only || (is_best && (bests & ((1u << lane) - 1)) == 0));
      const T score = counts ? exponential(x - top) / sum : T(0);
      append(lists, i / rows, counts && score >= floor, score,
             static_cast<unsigned>(c) * static_cast<unsigned>(rows) + row);
      if (best_only && bests != 0) break;
    }
  }
}

// See cpu/detect.cpp.
template <typename T>
T least_lead(T floor) {
  const T lowered = floor * T(1 - 1e-4);
  if (!(lowered > T(0))) return -std::numeric_limits<T>::infinity();
  return lowered < T(1) ? std::log(lowered / (T(1) - lowered)) : std::numeric_limits<T>::infinity();
}

}  // namespace

template <typename T>
int launch_detect(const cpu::SelectTask<T>& task, const BoxSource<T>& source, bool best_only, int64_t batch,
                  void* workspace, CUstream_st* stream) {
  CandidateLists lists =
      candidate_lists(workspace, batch, task.classes, detect_capacity(task, best_only), candidate_bytes<T>());
  const int64_t step = lists.images;
  for (; lists.first < batch; lists.first += step) {
    lists.images = batch - lists.first < step ? batch - lists.first : step;
    int status = clear_candidates(lists, task.classes, stream);
    if (status != cudaSuccess) return status;
    status = dispatch_dtype(task.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch(collect_logits_kernel<In, T>, grid_blocks(lists.images * task.rows, kWarps, 1 << 20), kThreads, 0,
                      stream, static_cast<const In*>(task.scores), lists, task.rows, static_cast<int>(task.classes),
                      task.floor, least_lead(task.floor), 4 * std::numeric_limits<T>::epsilon(), best_only);
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

template int launch_detect<float>(const cpu::SelectTask<float>&, const BoxSource<float>&, bool, int64_t, void*,
                                  CUstream_st*);
template int launch_detect<double>(const cpu::SelectTask<double>&, const BoxSource<double>&, bool, int64_t, void*,
                                   CUstream_st*);

}  // namespace ssd_ops
