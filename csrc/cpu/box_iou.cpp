#include "cpu/box_iou.h"

#include "box.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Columns as separate arrays, so that a vector holds many boxes.
template <typename T>
struct alignas(64) Strip {
  T x1[kIouColumns], y1[kIouColumns], x2[kIouColumns], y2[kIouColumns], area[kIouColumns], angle[kIouColumns];

  void fill(const Box<T>* boxes, int64_t count, bool angles) {
    for (int64_t j = 0; j < count; ++j) {
      const Box<T> b = boxes[j];
      x1[j] = b.x1;
      y1[j] = b.y1;
      x2[j] = b.x2;
      y2[j] = b.y2;
      area[j] = ssd_ops::area(b);
      if (angles) angle[j] = aspect_angle(b);
    }
  }
};

// One row and where its results go.
template <IouMetric metric, typename T>
struct Row {
  Box<T> box;
  T area, angle;
  T* __restrict out;

  Row(const Box<T>& row, T* results)
      : box(row),
        area(ssd_ops::area(row)),
        angle(metric == IouMetric::complete ? aspect_angle(row) : T(0)),
        out(results) {}

  inline __attribute__((always_inline)) T with(const Box<T>& b, T area_b, [[maybe_unused]] T angle_b) const {
    if constexpr (metric == IouMetric::iou) return iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::generalized) return generalized_iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::distance) return distance_iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::complete) return complete_iou(box, b, area, area_b, angle, angle_b);
  }
};

// Some rows against the columns of a strip, which are read once for all of them; the compiler makes vectors of the
// loop.
template <typename T, typename... Rows>
void together(const Strip<T>& strip, int64_t columns, Rows... rows) {
#pragma GCC ivdep
  for (int64_t j = 0; j < columns; ++j) {
    const Box<T> b{strip.x1[j], strip.y1[j], strip.x2[j], strip.y2[j]};
    ((rows.out[j] = rows.with(b, strip.area[j], strip.angle[j])), ...);
  }
}

template <IouMetric metric, typename T>
void tiles(const IouTask<T>& task, int64_t begin, int64_t end) {
  const int64_t row_tiles = (task.n + kIouRows - 1) / kIouRows, strips = (task.m + kIouColumns - 1) / kIouColumns;
  Strip<T> strip;
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t batch = tile / row_tiles / strips, first = tile / row_tiles % strips * kIouColumns;
    const int64_t columns = task.m - first < kIouColumns ? task.m - first : kIouColumns;
    if (tile == begin || tile % row_tiles == 0)
      strip.fill(task.columns + batch * task.m + first, columns, metric == IouMetric::complete);
    const auto row = [&](int64_t n) {
      const int64_t place = batch * task.n + n;
      return Row<metric, T>(task.rows[place], task.out + place * task.m + first);
    };
    int64_t n = tile % row_tiles * kIouRows;
    const int64_t last = task.n - n < kIouRows ? task.n : n + kIouRows;
    for (; n + 4 <= last; n += 4) together(strip, columns, row(n), row(n + 1), row(n + 2), row(n + 3));
    for (; n < last; ++n) together(strip, columns, row(n));
  }
}

template <typename T>
void any_metric(const IouTask<T>& task, int64_t begin, int64_t end) {
  switch (task.metric) {
    case IouMetric::iou: return tiles<IouMetric::iou>(task, begin, end);
    case IouMetric::generalized: return tiles<IouMetric::generalized>(task, begin, end);
    case IouMetric::distance: return tiles<IouMetric::distance>(task, begin, end);
    case IouMetric::complete: return tiles<IouMetric::complete>(task, begin, end);
  }
}

}  // namespace

void iou_tiles(const IouTask<float>& task, int64_t begin, int64_t end) { any_metric(task, begin, end); }
void iou_tiles(const IouTask<double>& task, int64_t begin, int64_t end) { any_metric(task, begin, end); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
