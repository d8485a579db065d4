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

// Whether ModerateDivision can divide for pairs of this box with boxes of which the same is true. Coordinates, centers
// and angles are not tiny: the difference of two floats of 2^-k or more is 0 or at least 2^(-k - 23). So numerators are
// 0 or between 2^-86 and 2^37, denominators between 2^-25 and 2^37.
template <typename T>
__device__ __forceinline__ bool is_moderate(const Box<T>& box, T angle) {
  constexpr T kMaxCoordinate = T(1 << 16), kMinCoordinate = T(1) / (1 << 20), kMinSide = T(1) / (1 << 12);
  const auto moderate = [](T x) {
    return x == T(0) || (std::abs(x) >= kMinCoordinate && std::abs(x) <= kMaxCoordinate);
  };
  return moderate(box.x1) && moderate(box.y1) && moderate(box.x2) && moderate(box.y2) && box.x2 - box.x1 >= kMinSide &&
         box.y2 - box.y1 >= kMinSide && std::abs(box.x1 + box.x2) >= kMinSide &&
         std::abs(box.y1 + box.y2) >= kMinSide && angle >= kMinSide;
}

// What the compiler generates for the division of floats, without its test for extreme exponents. That test is a branch
// between the divisions of neighboring pairs, which can now be executed together.
struct ModerateDivision {
  static constexpr bool checked = false;

  static __device__ __forceinline__ float divide(float numerator, float denominator) {
#ifdef __CUDA_ARCH__
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(denominator));
    reciprocal = __fmaf_rn(reciprocal, __fmaf_rn(-denominator, reciprocal, 1.0f), reciprocal);
    const float quotient = numerator * reciprocal;
    return __fmaf_rn(reciprocal, __fmaf_rn(-denominator, quotient, numerator), quotient);
#else
    return numerator / denominator;  // the same
#endif
  }
};

template <typename Division, typename T>
__device__ __forceinline__ T measure(IouMetric metric, const Box<T>& a, const Box<T>& b, T area_a, T area_b, T angle_a,
                                     T angle_b) {
  switch (metric) {
    case IouMetric::generalized: return generalized_iou(a, b, area_a, area_b);
    case IouMetric::distance: return distance_iou(a, b, area_a, area_b);
    case IouMetric::complete: return complete_iou<Division>(a, b, area_a, area_b, angle_a, angle_b);
    default: return iou(a, b, area_a, area_b);
  }
}

// The columns of a thread, column `first` of the matrix and those that follow.
template <IouMetric metric, bool adjacent, typename T>
struct Columns {
  static constexpr int kCount = Pack<T>::kColumns, kStep = adjacent ? 1 : kThreads;
  int64_t first, m;
  Box<T> boxes[kCount];
  T areas[kCount], angles[kCount];

  // Writes a part of `count` rows of the matrix; `target` is where the first begins.
  template <typename Division>
  __device__ __forceinline__ void write(const Box<T>* rows, const T* row_areas, const T* row_angles, int count,
                                        T* target) const {
    for (int r = 0; r < count; ++r, target += m) {
      const Box<T> row = rows[r];
      const T row_area = row_areas[r], row_angle = metric == IouMetric::complete ? row_angles[r] : T(0);
      Pack<T> values;
#pragma unroll
      for (int k = 0; k < kCount; ++k)
        values.values[k] = measure<Division>(metric, row, boxes[k], row_area, areas[k], row_angle, angles[k]);
      if constexpr (adjacent) {
        __stcs(reinterpret_cast<float4*>(target),
               *reinterpret_cast<const float4*>(&values));  // streaming: not read again soon
      } else {
#pragma unroll
        for (int k = 0; k < kCount; ++k)
          if (first + k * kStep < m) target[k * kStep] = values.values[k];
      }
    }
  }
};

template <IouMetric metric, bool adjacent, typename In>
__global__ void __launch_bounds__(kThreads, sizeof(compute_t<In>) == sizeof(float) ? 4 : 2)
    box_iou_kernel(const In* boxes1, const In* boxes2, compute_t<In>* out, int64_t n, int64_t m, int64_t row_tiles,
                   int64_t column_tiles, int64_t tiles) {
  using T = compute_t<In>;
  using MyColumns = Columns<metric, adjacent, T>;
  // IoU and generalized IoU were no faster that way, see benchmarks/GPU.md.
  constexpr bool kModerates = metric == IouMetric::complete && sizeof(T) == sizeof(float);
  __shared__ Box<T> rows[kRows];
  __shared__ T row_areas[kRows], row_angles[kRows];
  for (int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int64_t batch = tile / (row_tiles * column_tiles);
    const int64_t first_row = tile / column_tiles % row_tiles * kRows;
    const int64_t column =
        tile % column_tiles * (kThreads * MyColumns::kCount) + threadIdx.x * (adjacent ? MyColumns::kCount : 1);
    const int row_count = static_cast<int>(n - first_row < kRows ? n - first_row : kRows);
    __syncthreads();  // all threads are done with the rows of the previous tile
    bool moderate = kModerates;
    if (threadIdx.x < row_count) {
      const Box<T> row = load_box(boxes1, batch * n + first_row + threadIdx.x);
      const T angle = metric == IouMetric::complete ? aspect_angle(row) : T(0);
      rows[threadIdx.x] = row;
      row_areas[threadIdx.x] = area(row);
      if (metric == IouMetric::complete) row_angles[threadIdx.x] = angle;
      moderate = moderate && is_moderate(row, angle);
    }
    if constexpr (kModerates) {
      moderate = __syncthreads_and(moderate) != 0;
    } else {
      __syncthreads();
    }
    if (column >= m) continue;
    MyColumns columns{column, m, {}, {}, {}};
#pragma unroll
    for (int k = 0; k < MyColumns::kCount; ++k) {
      const int64_t i = column + k * MyColumns::kStep;
      columns.boxes[k] = load_box(boxes2, batch * m + (i < m ? i : m - 1));
      columns.areas[k] = area(columns.boxes[k]);
      if (metric == IouMetric::complete) columns.angles[k] = aspect_angle(columns.boxes[k]);
      moderate = moderate && is_moderate(columns.boxes[k], columns.angles[k]);
    }
    T* target = out + (batch * n + first_row) * m + column;
    if constexpr (kModerates) {
      if (moderate) {
        columns.template write<ModerateDivision>(rows, row_areas, row_angles, row_count, target);
        continue;
      }
    }
    columns.template write<AnyDivision>(rows, row_areas, row_angles, row_count, target);
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
