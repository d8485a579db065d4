// Plan: one block per tile of the matrix, processed in chunks of kRows rows and blockDim.x * kColumns columns. A thread
// keeps kColumns column boxes and the sums of their gradients in registers while it iterates over the rows, which are
// in shared memory. The gradient of a row is reduced over the columns of a warp by shuffles, and over the warps in
// order through shared memory. Each tile writes its own partial sums; the second kernel adds those of all tiles in
// order and converts them to gradients of coordinates. No atomics: the same input gives the same bits. The matrix is
// read once, and no array of its size is allocated.
#include "core/box_grad.h"
#include "cuda/common/load.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/iou/grad_box_iou.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kColumns = 2, kRows = 32;
constexpr int64_t kMaxTiles = 16;  // along each side of the matrix

template <typename T>
__device__ void add(PairGrad<T>& sum, const PairGrad<T>& term) {
  sum.x1 += term.x1;
  sum.y1 += term.y1;
  sum.x2 += term.x2;
  sum.y2 += term.y2;
  sum.area += term.area;
  sum.angle += term.angle;
}

// Sums over the warp: the lanes 4 k .. 4 k + 3 return the sum of member k (0 from lane 4 * kPairGradSize on). 9
// shuffles for 6 sums instead of 30.
template <typename T>
__device__ T warp_sums(const PairGrad<T>& grad) {
  T members[8] = {grad.x1, grad.y1, grad.x2, grad.y2, grad.area, grad.angle, T(0), T(0)};
  return reduce_scatter(members, [](T own, T other) { return own + other; });
}

// The rows of a chunk, and the sums of each warp for them.
template <typename T>
struct RowChunk {
  Box<T> boxes[kRows];
  T areas[kRows], angles[kRows], sums[kRows][kWarps][kPairGradSize];
};

// The columns of a thread, and the sums of their gradients.
template <typename T>
struct ThreadColumns {
  Box<T> boxes[kColumns];
  T areas[kColumns], angles[kColumns];
  PairGrad<T> sums[kColumns];
  int64_t index[kColumns];
};

template <IouMetric metric, typename In, typename T>
__device__ __forceinline__ void load_columns(const In* boxes, int64_t first, int64_t end, ThreadColumns<T>& columns) {
#pragma unroll
  for (int k = 0; k < kColumns; ++k) {
    columns.index[k] = first + k * blockDim.x + threadIdx.x;
    columns.boxes[k] = columns.index[k] < end ? load_box(boxes, columns.index[k]) : Box<T>{T(0), T(0), T(0), T(0)};
    columns.areas[k] = area(columns.boxes[k]);
    columns.angles[k] = metric == IouMetric::complete ? aspect_angle(columns.boxes[k]) : T(0);
    columns.sums[k] = PairGrad<T>{};
  }
}

// Adds the gradients of `count` rows with the thread's columns: to the sums of the columns, and, reduced over the warp,
// to rows.sums. `grad` points to the first row.
template <IouMetric metric, typename T>
__device__ __forceinline__ void add_pairs(const T* grad, int64_t m, int count, int64_t end, RowChunk<T>& rows,
                                          ThreadColumns<T>& columns) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  for (int r = 0; r < count; ++r) {
    PairGrad<T> row_grad = {};
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (columns.index[k] >= end) continue;
      PairGrad<T> da, db;
      pair_gradient<metric>(grad[r * m + columns.index[k]], rows.boxes[r], columns.boxes[k], rows.areas[r],
                            columns.areas[k], rows.angles[r], columns.angles[k], &da, &db);
      add(row_grad, da);
      add(columns.sums[k], db);
    }
    const T sum = warp_sums(row_grad);
    if (lane % 4 == 0 && lane / 4 < kPairGradSize) rows.sums[r][warp][lane / 4] = sum;
  }
}

template <IouMetric metric, typename In>
__global__ void __launch_bounds__(kThreads, 1)
    grad_box_iou_kernel(const compute_t<In>* grad, const In* boxes1, const In* boxes2, compute_t<In>* row_sums,
                        compute_t<In>* column_sums, int64_t n, int64_t m, GradIouTiles tiles) {
  using T = compute_t<In>;
  __shared__ RowChunk<T> rows;
  const int warps = blockDim.x / kWarpSize;
  const int64_t row_index = blockIdx.x / tiles.column_tiles % tiles.row_tiles;
  const int64_t column_index = blockIdx.x % tiles.column_tiles;
  const int64_t batch = blockIdx.x / (tiles.row_tiles * tiles.column_tiles);
  const int64_t top = row_index * tiles.tile_rows, left = column_index * tiles.tile_columns;
  const int64_t bottom = top + tiles.tile_rows < n ? top + tiles.tile_rows : n;
  const int64_t right = left + tiles.tile_columns < m ? left + tiles.tile_columns : m;
  grad += batch * n * m;
  row_sums += (batch * tiles.column_tiles + column_index) * kPairGradSize * n;
  column_sums += (batch * tiles.row_tiles + row_index) * kPairGradSize * m;
  for (int64_t first = left; first < right; first += blockDim.x * kColumns) {
    ThreadColumns<T> columns;
    load_columns<metric>(boxes2 + 4 * batch * m, first, right, columns);
    for (int64_t row = top; row < bottom; row += kRows) {
      const int count = static_cast<int>(bottom - row < kRows ? bottom - row : kRows);
      __syncthreads();  // all threads are done with the previous chunk
      for (int r = threadIdx.x; r < count; r += blockDim.x) {
        rows.boxes[r] = load_box(boxes1, batch * n + row + r);
        rows.areas[r] = area(rows.boxes[r]);
        rows.angles[r] = metric == IouMetric::complete ? aspect_angle(rows.boxes[r]) : T(0);
      }
      __syncthreads();
      add_pairs<metric>(grad + row * m, m, count, right, rows, columns);
      __syncthreads();
      for (int i = threadIdx.x; i < count * kPairGradSize; i += blockDim.x) {
        const int r = i / kPairGradSize, k = i % kPairGradSize;
        T* target = row_sums + k * n + row + r;
        T sum = first == left ? T(0) : *target;
        for (int w = 0; w < warps; ++w) sum += rows.sums[r][w][k];
        *target = sum;
      }
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (columns.index[k] >= right) continue;
      T* target = column_sums + columns.index[k];
      target[0] = columns.sums[k].x1;
      target[m] = columns.sums[k].y1;
      target[2 * m] = columns.sums[k].x2;
      target[3 * m] = columns.sums[k].y2;
      target[4 * m] = columns.sums[k].area;
      target[5 * m] = columns.sums[k].angle;
    }
  }
}

// One thread per box: adds sums [B, tiles, 6, count] and converts them to gradients [B, count, 4].
template <typename In>
__global__ void __launch_bounds__(kThreads)
    boxes_from_sums_kernel(const compute_t<In>* sums, const In* boxes, In* grads, int64_t batch, int64_t tiles,
                           int64_t count) {
  using T = compute_t<In>;
  const int64_t i = global_thread_index();
  if (i >= batch * count) return;
  const T* source = sums + i / count * tiles * kPairGradSize * count + i % count;
  double total[kPairGradSize] = {};
  for (int64_t t = 0; t < tiles; ++t)
#pragma unroll
    for (int k = 0; k < kPairGradSize; ++k) total[k] += source[(t * kPairGradSize + k) * count];
  const PairGrad<T> sum{static_cast<T>(total[0]), static_cast<T>(total[1]), static_cast<T>(total[2]),
                        static_cast<T>(total[3]), static_cast<T>(total[4]), static_cast<T>(total[5])};
  const Box<T> grad = box_gradient(sum, load_box(boxes, i));
  reinterpret_cast<Box<In>*>(grads)[i] = {narrow<In>(grad.x1), narrow<In>(grad.y1), narrow<In>(grad.x2),
                                          narrow<In>(grad.y2)};
}

// As many threads as a tile has columns for, in whole warps.
unsigned threads_for(int64_t m) {
  const int64_t wanted = round_up(ceil_div(m, kColumns), kWarpSize);
  return static_cast<unsigned>(wanted < kThreads ? wanted : kThreads);
}

template <IouMetric metric, typename In>
cudaError_t launch_metric(const void* grad, const void* boxes1, const void* boxes2, void* row_sums, void* column_sums,
                          void* grad1, void* grad2, int64_t batch, int64_t n, int64_t m, cudaStream_t stream) {
  using T = compute_t<In>;
  const GradIouTiles tiles = grad_iou_tiles(n, m);
  cudaError_t status =
      launch(grad_box_iou_kernel<metric, In>, grid_blocks(batch * tiles.row_tiles * tiles.column_tiles, 1),
             threads_for(m), 0, stream, static_cast<const T*>(grad), static_cast<const In*>(boxes1),
             static_cast<const In*>(boxes2), static_cast<T*>(row_sums), static_cast<T*>(column_sums), n, m, tiles);
  if (status != cudaSuccess) return status;
  status = launch(boxes_from_sums_kernel<In>, grid_blocks(batch * n, kThreads), kThreads, 0, stream,
                  static_cast<const T*>(row_sums), static_cast<const In*>(boxes1), static_cast<In*>(grad1), batch,
                  tiles.column_tiles, n);
  if (status != cudaSuccess) return status;
  return launch(boxes_from_sums_kernel<In>, grid_blocks(batch * m, kThreads), kThreads, 0, stream,
                static_cast<const T*>(column_sums), static_cast<const In*>(boxes2), static_cast<In*>(grad2), batch,
                tiles.row_tiles, m);
}

}  // namespace

GradIouTiles grad_iou_tiles(int64_t n, int64_t m) {
  GradIouTiles tiles;
  tiles.tile_rows = round_up(ceil_div(n, kMaxTiles), kRows);
  tiles.tile_columns = round_up(ceil_div(m, kMaxTiles), threads_for(m) * kColumns);
  tiles.row_tiles = ceil_div(n, tiles.tile_rows);
  tiles.column_tiles = ceil_div(m, tiles.tile_columns);
  return tiles;
}

int launch_grad_box_iou(Dtype dtype, IouMetric metric, const void* grad, const void* boxes1, const void* boxes2,
                        void* row_sums, void* column_sums, void* grad1, void* grad2, int64_t batch, int64_t n,
                        int64_t m, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    const auto run = [&](auto launch_it) {
      return launch_it(grad, boxes1, boxes2, row_sums, column_sums, grad1, grad2, batch, n, m, stream);
    };
    switch (metric) {
      case IouMetric::generalized: return run(launch_metric<IouMetric::generalized, In>);
      case IouMetric::distance: return run(launch_metric<IouMetric::distance, In>);
      case IouMetric::complete: return run(launch_metric<IouMetric::complete, In>);
      default: return run(launch_metric<IouMetric::iou, In>);
    }
  });
}

}  // namespace ssd_ops
