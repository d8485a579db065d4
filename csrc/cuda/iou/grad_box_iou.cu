// Plan: a block has a tile of the matrix and walks through it in chunks of kRows rows and blockDim.x * kColumns
// columns. A thread keeps kColumns column boxes and the sums of their gradients in registers while it goes down the
// rows, which lie in shared memory. What a row gets from the columns of a warp is added up by shuffles, and what it
// gets from the warps in order through shared memory. Each tile writes sums of its own; the second kernel adds those of
// the tiles in order and makes gradients of coordinates of them. No atomics: the same input gives the same bits. The
// matrix is read once, and nothing of its size is made.
#include "core/box_grad.h"
#include "cuda/common/load.cuh"
#include "cuda/iou/grad_box_iou.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kColumns = 2, kRows = 32, kNumbers = 6;
constexpr int64_t kMaxBlocks = 16;  // tiles side by side, in both directions

template <typename T>
__device__ void add(PairGrad<T>& sum, const PairGrad<T>& term) {
  sum.x1 += term.x1;
  sum.y1 += term.y1;
  sum.x2 += term.x2;
  sum.y2 += term.y2;
  sum.area += term.area;
  sum.angle += term.angle;
}

// Sums over the warp. Lanes first share out the numbers, then add: 9 shuffles for 6 numbers instead of 30. Lane 4 k
// returns number k (of the lanes behind 4 * kNumbers the result is 0).
template <typename T>
__device__ T warp_sums(const PairGrad<T>& of_thread, int lane) {
  T a[8] = {of_thread.x1, of_thread.y1, of_thread.x2, of_thread.y2, of_thread.area, of_thread.angle, T(0), T(0)};
#pragma unroll
  for (int half = 4; half >= 1; half /= 2) {  // 8, 4, 2 numbers become 4, 2, 1
    const bool upper = (lane & (half * 4)) != 0;
#pragma unroll
    for (int k = 0; k < half; ++k) {
      const T sent = upper ? a[k] : a[k + half], kept = upper ? a[k + half] : a[k];
      a[k] = kept + __shfl_xor_sync(kFullMask, sent, half * 4);
    }
  }
  a[0] += __shfl_xor_sync(kFullMask, a[0], 2);
  return a[0] + __shfl_xor_sync(kFullMask, a[0], 1);
}

template <IouMetric metric, typename In>
__global__ void __launch_bounds__(kThreads, 1)
    grad_box_iou_kernel(const compute_t<In>* grad, const In* boxes1, const In* boxes2, compute_t<In>* row_sums,
                        compute_t<In>* column_sums, int64_t n, int64_t m, GradIouTiles tiles) {
  using T = compute_t<In>;
  __shared__ Box<T> rows[kRows];
  __shared__ T row_areas[kRows], row_angles[kRows], of_warp[kRows][kWarps][kNumbers];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
  const int64_t row_index = blockIdx.x / tiles.column_blocks % tiles.row_blocks;
  const int64_t column_index = blockIdx.x % tiles.column_blocks;
  const int64_t batch = blockIdx.x / (tiles.row_blocks * tiles.column_blocks);
  const int64_t top = row_index * tiles.row_block, left = column_index * tiles.column_block;
  const int64_t bottom = top + tiles.row_block < n ? top + tiles.row_block : n;
  const int64_t right = left + tiles.column_block < m ? left + tiles.column_block : m;
  grad += batch * n * m;
  row_sums += (batch * tiles.column_blocks + column_index) * kNumbers * n;
  column_sums += (batch * tiles.row_blocks + row_index) * kNumbers * m;
  for (int64_t first = left; first < right; first += blockDim.x * kColumns) {
    Box<T> column[kColumns];
    T column_area[kColumns], column_angle[kColumns];
    PairGrad<T> of_column[kColumns] = {};
    int64_t index[kColumns];
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      index[k] = first + k * blockDim.x + threadIdx.x;
      column[k] = index[k] < right ? load_box(boxes2, batch * m + index[k]) : Box<T>{T(0), T(0), T(0), T(0)};
      column_area[k] = area(column[k]);
      column_angle[k] = metric == IouMetric::complete ? aspect_angle(column[k]) : T(0);
    }
    for (int64_t row = top; row < bottom; row += kRows) {
      const int count = static_cast<int>(bottom - row < kRows ? bottom - row : kRows);
      __syncthreads();  // the chunk before is done with shared memory
      for (int r = threadIdx.x; r < count; r += blockDim.x) {
        rows[r] = load_box(boxes1, batch * n + row + r);
        row_areas[r] = area(rows[r]);
        row_angles[r] = metric == IouMetric::complete ? aspect_angle(rows[r]) : T(0);
      }
      __syncthreads();
      for (int r = 0; r < count; ++r) {
        PairGrad<T> of_row = {};
#pragma unroll
        for (int k = 0; k < kColumns; ++k) {
          if (index[k] >= right) continue;
          PairGrad<T> da, db;
          pair_gradient<metric>(grad[(row + r) * m + index[k]], rows[r], column[k], row_areas[r], column_area[k],
                                row_angles[r], column_angle[k], &da, &db);
          add(of_row, da);
          add(of_column[k], db);
        }
        const T sum = warp_sums(of_row, lane);
        if (lane % 4 == 0 && lane / 4 < kNumbers) of_warp[r][warp][lane / 4] = sum;
      }
      __syncthreads();
      for (int i = threadIdx.x; i < count * kNumbers; i += blockDim.x) {
        const int r = i / kNumbers, k = i % kNumbers;
        T* target = row_sums + k * n + row + r;
        T sum = first == left ? T(0) : *target;
        for (int w = 0; w < warps; ++w) sum += of_warp[r][w][k];
        *target = sum;
      }
    }
#pragma unroll
    for (int k = 0; k < kColumns; ++k) {
      if (index[k] >= right) continue;
      T* target = column_sums + index[k];
      target[0] = of_column[k].x1;
      target[m] = of_column[k].y1;
      target[2 * m] = of_column[k].x2;
      target[3 * m] = of_column[k].y2;
      target[4 * m] = of_column[k].area;
      target[5 * m] = of_column[k].angle;
    }
  }
}

// A thread is a box: sums [B, blocks, 6, count] to gradients [B, count, 4].
template <typename In>
__global__ void __launch_bounds__(kThreads)
    boxes_from_sums_kernel(const compute_t<In>* sums, const In* boxes, In* grads, int64_t batch, int64_t blocks,
                           int64_t count) {
  using T = compute_t<In>;
  const int64_t i = global_thread();
  if (i >= batch * count) return;
  const T* source = sums + i / count * blocks * kNumbers * count + i % count;
  double total[kNumbers] = {};
  for (int64_t b = 0; b < blocks; ++b)
#pragma unroll
    for (int k = 0; k < kNumbers; ++k) total[k] += source[(b * kNumbers + k) * count];
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
      launch(grad_box_iou_kernel<metric, In>, grid_blocks(batch * tiles.row_blocks * tiles.column_blocks, 1),
             threads_for(m), 0, stream, static_cast<const T*>(grad), static_cast<const In*>(boxes1),
             static_cast<const In*>(boxes2), static_cast<T*>(row_sums), static_cast<T*>(column_sums), n, m, tiles);
  if (status != cudaSuccess) return status;
  status = launch(boxes_from_sums_kernel<In>, grid_blocks(batch * n, kThreads), kThreads, 0, stream,
                  static_cast<const T*>(row_sums), static_cast<const In*>(boxes1), static_cast<In*>(grad1), batch,
                  tiles.column_blocks, n);
  if (status != cudaSuccess) return status;
  return launch(boxes_from_sums_kernel<In>, grid_blocks(batch * m, kThreads), kThreads, 0, stream,
                static_cast<const T*>(column_sums), static_cast<const In*>(boxes2), static_cast<In*>(grad2), batch,
                tiles.row_blocks, m);
}

}  // namespace

GradIouTiles grad_iou_tiles(int64_t n, int64_t m) {
  GradIouTiles tiles;
  tiles.row_block = round_up(ceil_div(n, kMaxBlocks), kRows);
  tiles.column_block = round_up(ceil_div(m, kMaxBlocks), threads_for(m) * kColumns);
  tiles.row_blocks = ceil_div(n, tiles.row_block);
  tiles.column_blocks = ceil_div(m, tiles.column_block);
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
