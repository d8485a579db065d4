// Plan: a block is a tile of kRows rows and kThreads * kColumns columns of one matrix; a thread keeps kColumns column
// boxes in registers (columns a block apart, so that a warp's stores are contiguous) and walks over the rows, whose
// boxes lie in shared memory and are read by all threads at once. The matrix is written once and nothing else is moved.
#include "cuda/box_iou.h"
#include "cuda/load.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kColumns = 2, kRows = 32;

template <typename T>
__device__ T measure(IouMetric metric, const Box<T>& a, const Box<T>& b, T area_a, T area_b, T angle_a, T angle_b) {
  switch (metric) {
    case IouMetric::generalized: return generalized_iou(a, b, area_a, area_b);
    case IouMetric::distance: return distance_iou(a, b, area_a, area_b);
    case IouMetric::complete: return complete_iou(a, b, area_a, area_b, angle_a, angle_b);
    default: return iou(a, b, area_a, area_b);
  }
}

template <IouMetric metric, typename In>
__global__ void __launch_bounds__(kThreads)
    box_iou_kernel(const In* boxes1, const In* boxes2, compute_t<In>* out, int64_t n, int64_t m, int64_t row_tiles,
                   int64_t column_tiles, int64_t tiles) {
  using T = compute_t<In>;
  __shared__ Box<T> rows[kRows];
  __shared__ T row_areas[kRows], row_angles[kRows];
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t batch = tile / (row_tiles * column_tiles);
    const int64_t first_row = tile / column_tiles % row_tiles * kRows;
    const int64_t first_column = tile % column_tiles * (kThreads * kColumns);
    const int row_count = static_cast<int>(n - first_row < kRows ? n - first_row : kRows);
    __syncthreads();  // the last tile is done with the rows
    if (threadIdx.x < row_count) {
      const Box<T> row = load_box(boxes1, batch * n + first_row + threadIdx.x);
      rows[threadIdx.x] = row;
      row_areas[threadIdx.x] = area(row);
      if (metric == IouMetric::complete) row_angles[threadIdx.x] = aspect_angle(row);
    }
    __syncthreads();
    for (int k = 0; k < kColumns; ++k) {
      const int64_t column = first_column + k * kThreads + threadIdx.x;
      if (column >= m) break;
      const Box<T> b = load_box(boxes2, batch * m + column);
      const T area_b = area(b), angle_b = metric == IouMetric::complete ? aspect_angle(b) : T(0);
      T* target = out + (batch * n + first_row) * m + column;
      for (int r = 0; r < row_count; ++r, target += m) {
        const T angle_a = metric == IouMetric::complete ? row_angles[r] : T(0);
        *target = measure(metric, rows[r], b, row_areas[r], area_b, angle_a, angle_b);
      }
    }
  }
}

template <IouMetric metric>
cudaError_t launch_metric(Dtype dtype, const void* boxes1, const void* boxes2, void* out, int64_t batch, int64_t n,
                          int64_t m, cudaStream_t stream) {
  const int64_t row_tiles = ceil_div(n, kRows), column_tiles = ceil_div(m, kThreads * kColumns);
  const int64_t tiles = batch * row_tiles * column_tiles;
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    return launch(box_iou_kernel<metric, In>, grid_blocks(tiles, 1), kThreads, 0, stream,
                  static_cast<const In*>(boxes1), static_cast<const In*>(boxes2), static_cast<compute_t<In>*>(out), n,
                  m, row_tiles, column_tiles, tiles);
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
