// Plan: one block sorts all scores in shared memory, each with its index in the lower bits of one number.
#include "cuda/candidates.cuh"
#include "cuda/load.cuh"
#include "cuda/nms.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 1024;

template <typename In>
__global__ void __launch_bounds__(kThreads, 1) order_kernel(const In* scores, int count, int64_t* order) {
  using C = candidate_t<compute_t<In>>;
  __shared__ C items[kMostSorted];
  int size = 2;
  while (size < count) size *= 2;
  for (int i = threadIdx.x; i < size; i += kThreads) {
    items[i] = last_candidate<C>();
    if (i < count) items[i] = make_candidate_or_first(widen(scores[i]), static_cast<unsigned>(i));
  }
  sort_shared(items, size);
  for (int i = threadIdx.x; i < count; i += kThreads) order[i] = index_of(items[i]);
}

}  // namespace

int launch_nms_order(Dtype dtype, const void* scores, int64_t n, int64_t* order, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    return launch(order_kernel<In>, 1, kThreads, 0, stream, static_cast<const In*>(scores), static_cast<int>(n), order);
  });
}

}  // namespace ssd_ops
