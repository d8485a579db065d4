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

// One row and where its results go.
template <IouMetric metric, typename T>
struct Row {
  Box<T> box;
  T area, angle;
  T* __restrict out;

  Row(const IouTask<T>& task, int64_t n) : out(task.out + n * task.m) {
    const T* r = task.rows + 4 * n;
    box = {r[0], r[1], r[2], r[3]};
    area = ssd_ops::area(box);
    angle = metric == IouMetric::complete ? aspect_angle(box) : T(0);
  }

  inline __attribute__((always_inline)) T with(const Box<T>& b, T area_b, [[maybe_unused]] T angle_b) const {
    if constexpr (metric == IouMetric::iou) return iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::generalized) return generalized_iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::distance) return distance_iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::complete) return complete_iou(box, b, area, area_b, angle, angle_b);
  }
};

// Some rows against all columns, which are read once for all of them; the compiler makes vectors of the inner loop.
template <IouMetric metric, typename T, typename... Rows>
void together(const IouTask<T>& task, Rows... rows) {
  const int64_t m = task.m;
  const T* __restrict x1 = task.columns;
  const T* __restrict y1 = x1 + m;
  const T* __restrict x2 = y1 + m;
  const T* __restrict y2 = x2 + m;
  const T* __restrict areas = y2 + m;
  const T* __restrict angles = metric == IouMetric::complete ? areas + m : areas;
#pragma GCC ivdep
  for (int64_t j = 0; j < m; ++j) {
    const Box<T> b{x1[j], y1[j], x2[j], y2[j]};
    ((rows.out[j] = rows.with(b, areas[j], angles[j])), ...);
  }
}

template <IouMetric metric, typename T>
void rows(const IouTask<T>& task, int64_t begin, int64_t end) {
  using R = Row<metric, T>;
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) together<metric>(task, R(task, n), R(task, n + 1), R(task, n + 2), R(task, n + 3));
  for (; n < end; ++n) together<metric>(task, R(task, n));
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
