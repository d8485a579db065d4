// Plan: one block per tile of kRows rows and kThreads * kColumns columns of one matrix; a thread keeps kColumns column
// boxes in registers and iterates over the rows, whose boxes are broadcast from shared memory. The columns of a thread
// are adjacent, so that one store writes 16 bytes; if rows are not aligned to 16 bytes they are kThreads apart, so that
// the stores of a warp are coalesced. The matrix is written once and nothing else is written.
#include "cuda/common/load.cuh"
#include "cuda/iou/box_iou.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 128, kRows = 8;  // small tiles, so that a few million pairs fill a GPU

// One store of a thread.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kColumns = 16 / sizeof(T);
  T values[kColumns];
};

template <typename T>
__device__ __forceinline__ T measure(IouMetric metric, const Box<T>& a, const Box<T>& b, T area_a, T area_b, T angle_a,
                                     T angle_b) {
  switch (metric) {
    case IouMetric::generalized: return generalized_iou(a, b, area_a, area_b);
    case IouMetric::distance: return distance_iou(a, b, area_a, area_b);
    case IouMetric::complete: return complete_iou(a, b, area_a, area_b, angle_a, angle_b);
    default: return iou(a, b, area_a, area_b);
  }
}

template <IouMetric metric, bool adjacent, typename In>
__global__ void __launch_bounds__(kThreads, sizeof(compute_t<In>) == sizeof(float) ? 4 : 2)
    box_iou_kernel(const In* boxes1, const In* boxes2, compute_t<In>* out, int64_t n, int64_t m, int64_t row_tiles,
                   int64_t column_tiles, int64_t tiles) {
  using T = compute_t<In>;
  constexpr int kColumns = Pack<T>::kColumns, kStep = adjacent ? 1 : kThreads;
  __shared__ Box<T> rows[kRows];
  __shared__ T row_areas[kRows], row_angles[kRows];
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t batch = tile / (row_tiles * column_tiles);
    const int64_t first_row = tile / column_tiles % row_tiles * kRows;
    const int64_t column = tile % column_tiles * (kThreads * kColumns) + threadIdx.x * (adjacent ? kColumns : 1);
    const int row_count = static_cast<int>(n - first_row < kRows ? n - first_row : kRows);
    __syncthreads();  // all threads are done with the rows of the previous tile
    if (threadIdx.x < row_count) {
      const Box<T> row = load_box(boxes1, batch * n + first_row + threadIdx.x);
      rows[threadIdx.x] = row;
      row_areas[threadIdx.x] = area(row);
      if (metric == IouMetric::complete) row_angles[threadIdx.x] = aspect_angle(row);
    }
    __syncthreads();
    if (column >= m) continue;
    Box<T> b[kColumns];
    T area_b[kColumns], angle_b[kColumns] = {};
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      b[k] = load_box(boxes2, batch * m + (column + k * kStep < m ? column + k * kStep : m - 1));
      area_b[k] = area(b[k]);
      if (metric == IouMetric::complete) angle_b[k] = aspect_angle(b[k]);
    }
    T* target = out + (batch * n + first_row) * m + column;
    for (int r = 0; r < row_count; ++r, target += m) {
      const Box<T> a = rows[r];
      const T area_a = row_areas[r], angle_a = metric == IouMetric::complete ? row_angles[r] : T(0);
      Pack<T> values;
#pragma unroll
      for (int k = 0; k < kColumns; ++k)
        values.values[k] = measure(metric, a, b[k], area_a, area_b[k], angle_a, angle_b[k]);
      if constexpr (adjacent) {
        __stcs(reinterpret_cast<float4*>(target),
               *reinterpret_cast<const float4*>(&values));  // streaming: not read again soon
      } else {
#pragma unroll
        for (int k = 0; k < kColumns; ++k)
          if (column + k * kStep < m) target[k * kStep] = values.values[k];
      }
    }
  }
}

template <IouMetric metric>
cudaError_t launch_metric(Dtype dtype, const void* boxes1, const void* boxes2, void* out, int64_t batch, int64_t n,
                          int64_t m, cudaStream_t stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    using T = compute_t<In>;
    constexpr int kColumns = Pack<T>::kColumns;
    const int64_t row_tiles = ceil_div(n, kRows), column_tiles = ceil_div(m, kThreads * kColumns);
    const int64_t tiles = batch * row_tiles * column_tiles;
    const bool adjacent = m % kColumns == 0 && reinterpret_cast<uintptr_t>(out) % sizeof(Pack<T>) == 0;
    return launch(adjacent ? box_iou_kernel<metric, true, In> : box_iou_kernel<metric, false, In>,
                  grid_blocks(tiles, 1), kThreads, 0, stream, static_cast<const In*>(boxes1),
                  static_cast<const In*>(boxes2), static_cast<T*>(out), n, m, row_tiles, column_tiles, tiles);
  });
}

}  // namespace

int launch_box_iou(Dtype dtype, const void* boxes1, const void* boxes2, void* out, int64_t batch, int64_t n, int64_t m,
                   IouMetric metric, CUstream_st* stream) {
  switch (metric) {
    case IouMetric::generalized:
      return launch_metric<IouMetric::generalized>(dtype, boxes1, boxes2, out, batch, n, m, stream);
    case IouMetric::distance:
      return launch_metric<IouMetric::distance>(dtype, boxes1, boxes2, out, batch, n, m, stream);
    case IouMetric::complete:
      return launch_metric<IouMetric::complete>(dtype, boxes1, boxes2, out, batch, n, m, stream);
    default: return launch_metric<IouMetric::iou>(dtype, boxes1, boxes2, out, batch, n, m, stream);
  }
}

}  // namespace ssd_ops
