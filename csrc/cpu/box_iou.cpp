#include "cpu/box_iou.h"

#include "box.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

template <typename T>
void columns_of(const T* boxes, int64_t m, bool angles, T* columns) {
  for (int64_t j = 0; j < m; ++j) {
    const Box<T> b{boxes[4 * j], boxes[4 * j + 1], boxes[4 * j + 2], boxes[4 * j + 3]};
    columns[j] = b.x1;
    columns[m + j] = b.y1;
    columns[2 * m + j] = b.x2;
    columns[3 * m + j] = b.y2;
    columns[4 * m + j] = area(b);
    if (angles) columns[5 * m + j] = aspect_angle(b);
  }
}

// One row against all columns; the compiler makes vectors of the inner loop.
template <IouMetric metric, typename T>
void row(const IouTask<T>& task, int64_t n) {
  const int64_t m = task.m;
  const T* __restrict x1 = task.columns;
  const T* __restrict y1 = x1 + m;
  const T* __restrict x2 = y1 + m;
  const T* __restrict y2 = x2 + m;
  const T* __restrict areas = y2 + m;
  [[maybe_unused]] const T* __restrict angles = areas + m;
  T* __restrict out = task.out + n * m;
  const T* r = task.rows + 4 * n;
  const Box<T> a{r[0], r[1], r[2], r[3]};
  const T area_a = area(a);
  [[maybe_unused]] const T angle_a = metric == IouMetric::complete ? aspect_angle(a) : T(0);
#pragma GCC ivdep
  for (int64_t j = 0; j < m; ++j) {
    const Box<T> b{x1[j], y1[j], x2[j], y2[j]};
    if constexpr (metric == IouMetric::iou) out[j] = iou(a, b, area_a, areas[j]);
    if constexpr (metric == IouMetric::generalized) out[j] = generalized_iou(a, b, area_a, areas[j]);
    if constexpr (metric == IouMetric::distance) out[j] = distance_iou(a, b, area_a, areas[j]);
    if constexpr (metric == IouMetric::complete) out[j] = complete_iou(a, b, area_a, areas[j], angle_a, angles[j]);
  }
}

template <IouMetric metric, typename T>
void rows(const IouTask<T>& task, int64_t begin, int64_t end) {
  for (int64_t n = begin; n < end; ++n) row<metric>(task, n);
}

template <typename T>
void any_metric(const IouTask<T>& task, int64_t begin, int64_t end) {
  switch (task.metric) {
    case IouMetric::iou: return rows<IouMetric::iou>(task, begin, end);
    case IouMetric::generalized: return rows<IouMetric::generalized>(task, begin, end);
    case IouMetric::distance: return rows<IouMetric::distance>(task, begin, end);
    case IouMetric::complete: return rows<IouMetric::complete>(task, begin, end);
  }
}

}  // namespace

void iou_columns(const float* boxes, int64_t m, bool angles, float* columns) { columns_of(boxes, m, angles, columns); }
void iou_columns(const double* boxes, int64_t m, bool angles, double* columns) {
  columns_of(boxes, m, angles, columns);
}
void iou_rows(const IouTask<float>& task, int64_t begin, int64_t end) { any_metric(task, begin, end); }
void iou_rows(const IouTask<double>& task, int64_t begin, int64_t end) { any_metric(task, begin, end); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
