#include "cpu/iou/grad_box_iou.h"

#include <algorithm>

#include "core/box_grad.h"
#include "cpu/common/box_arrays.h"
#include "cpu/common/ivdep.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Partial sums of a row: the same number on every instruction set, so that all of them give the same bits.
constexpr int64_t kLanes = 16;

template <typename T>
struct alignas(64) RowSums {
  T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes], angle[kLanes];
};

template <typename T>
struct alignas(64) ColumnSums {
  T x1[kColumnChunk], y1[kColumnChunk], x2[kColumnChunk], y2[kColumnChunk], area[kColumnChunk], angle[kColumnChunk];
};

template <typename T>
struct Row {
  Box<T> box;
  T area, angle;
};

// One row with `lanes` columns (at most kLanes) from `column` on, which has the index `in_chunk` in its chunk.
template <IouMetric metric, typename T>
__attribute__((always_inline)) inline void add_pairs(const GradIouParams<T>& params, const T* __restrict grad,
                                                     const Row<T>& row, int64_t column, int64_t in_chunk, int64_t lanes,
                                                     RowSums<T>& __restrict of_row,
                                                     ColumnSums<T>& __restrict of_columns) {
  const T* __restrict x1 = params.columns + column;
  const T* __restrict y1 = x1 + params.m, * __restrict x2 = y1 + params.m, * __restrict y2 = x2 + params.m;
  const T* __restrict areas = y2 + params.m;
  [[maybe_unused]] const T* __restrict angles = areas + params.m;
  SSD_OPS_IVDEP
  for (int64_t l = 0; l < lanes; ++l) {
    const Box<T> b{x1[l], y1[l], x2[l], y2[l]};
    const T angle_b = metric == IouMetric::complete ? angles[l] : T(0);
    PairGrad<T> da, db;
    pair_gradient<metric>(grad[l], row.box, b, row.area, areas[l], row.angle, angle_b, &da, &db);
    of_row.x1[l] += da.x1;
    of_row.y1[l] += da.y1;
    of_row.x2[l] += da.x2;
    of_row.y2[l] += da.y2;
    of_row.area[l] += da.area;
    of_columns.x1[in_chunk + l] += db.x1;
    of_columns.y1[in_chunk + l] += db.y1;
    of_columns.x2[in_chunk + l] += db.x2;
    of_columns.y2[in_chunk + l] += db.y2;
    of_columns.area[in_chunk + l] += db.area;
    if constexpr (metric == IouMetric::complete) {
      of_row.angle[l] += da.angle;
      of_columns.angle[in_chunk + l] += db.angle;
    }
  }
}

// Adds the lanes of a row, in order, to its sums.
template <typename T>
void add_row(const RowSums<T>& of_row, double* sums, int64_t stride) {
  const T* members[kPairGradSize] = {of_row.x1, of_row.y1, of_row.x2, of_row.y2, of_row.area, of_row.angle};
  for (int k = 0; k < kPairGradSize; ++k) {
    double sum = 0;
    for (int64_t l = 0; l < kLanes; ++l) sum += static_cast<double>(members[k][l]);
    sums[k * stride] += sum;
  }
}

template <typename T>
void add_columns(const ColumnSums<T>& of_columns, int64_t count, double* sums, int64_t stride) {
  const T* members[kPairGradSize] = {of_columns.x1, of_columns.y1,   of_columns.x2,
                                     of_columns.y2, of_columns.area, of_columns.angle};
  for (int k = 0; k < kPairGradSize; ++k)
    for (int64_t j = 0; j < count; ++j) sums[k * stride + j] += static_cast<double>(members[k][j]);
}

// Rows first .. last - 1, at most kRowChunk, with `count` columns from `column` on, at most kColumnChunk.
template <IouMetric metric, typename T>
void add_chunk(const GradIouParams<T>& params, int64_t first, int64_t last, int64_t column, int64_t count,
               double* row_sums, double* column_sums) {
  ColumnSums<T> of_columns = {};
  for (int64_t n = first; n < last; ++n) {
    const Box<T> box = load_box(params.rows, n);
    const Row<T> row{box, area(box), metric == IouMetric::complete ? aspect_angle(box) : T(0)};
    const T* grad = params.grad + n * params.m + column;
    RowSums<T> of_row = {};
    int64_t j = 0;
    for (; j + kLanes <= count; j += kLanes)
      add_pairs<metric>(params, grad + j, row, column + j, j, kLanes, of_row, of_columns);
    if (j < count) add_pairs<metric>(params, grad + j, row, column + j, j, count - j, of_row, of_columns);
    add_row(of_row, row_sums + n, params.n);
  }
  add_columns(of_columns, count, column_sums + column, params.m);
}

template <IouMetric metric, typename T>
void tiles(const GradIouParams<T>& params, int64_t begin, int64_t end) {
  const int64_t column_tiles = ceil_div(params.m, params.tile_columns);
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t row_index = tile / column_tiles, column_index = tile % column_tiles;
    const int64_t first = row_index * params.tile_rows, last = std::min(params.n, first + params.tile_rows);
    const int64_t left = column_index * params.tile_columns, right = std::min(params.m, left + params.tile_columns);
    double* row_sums = params.row_sums + column_index * kPairGradSize * params.n;
    double* column_sums = params.column_sums + row_index * kPairGradSize * params.m;
    for (int k = 0; k < kPairGradSize; ++k) {
      std::fill(row_sums + k * params.n + first, row_sums + k * params.n + last, 0.0);
      std::fill(column_sums + k * params.m + left, column_sums + k * params.m + right, 0.0);
    }
    for (int64_t column = left; column < right; column += kColumnChunk)
      for (int64_t n = first; n < last; n += kRowChunk)
        add_chunk<metric>(params, n, std::min(last, n + kRowChunk), column, std::min(kColumnChunk, right - column),
                          row_sums, column_sums);
  }
}

template <typename T>
void dispatch_metric(const GradIouParams<T>& params, int64_t begin, int64_t end) {
  switch (params.metric) {
    case IouMetric::iou: return tiles<IouMetric::iou>(params, begin, end);
    case IouMetric::generalized: return tiles<IouMetric::generalized>(params, begin, end);
    case IouMetric::distance: return tiles<IouMetric::distance>(params, begin, end);
    case IouMetric::complete: return tiles<IouMetric::complete>(params, begin, end);
  }
}

template <typename T>
void boxes_from_sums(const double* sums, int64_t tiles, int64_t count, const T* boxes, T* grads) {
  for (int64_t i = 0; i < count; ++i) {
    double total[kPairGradSize] = {};
    for (int64_t t = 0; t < tiles; ++t)
      for (int k = 0; k < kPairGradSize; ++k) total[k] += sums[(t * kPairGradSize + k) * count + i];
    const PairGrad<T> sum{static_cast<T>(total[0]), static_cast<T>(total[1]), static_cast<T>(total[2]),
                          static_cast<T>(total[3]), static_cast<T>(total[4]), static_cast<T>(total[5])};
    store_box(box_gradient(sum, load_box(boxes, i)), grads, i);
  }
}

}  // namespace

void grad_iou_tiles(const GradIouParams<float>& params, int64_t begin, int64_t end) {
  dispatch_metric(params, begin, end);
}
void grad_iou_tiles(const GradIouParams<double>& params, int64_t begin, int64_t end) {
  dispatch_metric(params, begin, end);
}
void grad_iou_boxes(const double* sums, int64_t tiles, int64_t count, const float* boxes, float* grads) {
  boxes_from_sums(sums, tiles, count, boxes, grads);
}
void grad_iou_boxes(const double* sums, int64_t tiles, int64_t count, const double* boxes, double* grads) {
  boxes_from_sums(sums, tiles, count, boxes, grads);
}

void iou_columns(const float* boxes, int64_t m, bool angles, float* columns) {
  split_boxes(boxes, m, m, angles, columns);
}
void iou_columns(const double* boxes, int64_t m, bool angles, double* columns) {
  split_boxes(boxes, m, m, angles, columns);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
