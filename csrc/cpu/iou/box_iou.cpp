#include "cpu/iou/box_iou.h"

#include "cpu/common/box_arrays.h"
#include "cpu/common/ivdep.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// One row box, and the address of its results.
template <IouMetric metric, typename T>
struct Row {
  Box<T> box;
  T area, angle;
  T* __restrict out;

  Row(const T* row, T* results)
      : box(load_box(row, 0)),
        area(ssd_ops::area(box)),
        angle(metric == IouMetric::complete ? aspect_angle(box) : T(0)),
        out(results) {}

  inline __attribute__((always_inline)) T with(const Box<T>& b, T area_b, [[maybe_unused]] T angle_b) const {
    if constexpr (metric == IouMetric::iou) return iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::generalized) return generalized_iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::distance) return distance_iou(box, b, area, area_b);
    if constexpr (metric == IouMetric::complete) return complete_iou(box, b, area, area_b, angle, angle_b);
  }
};

// Some rows with the columns of a strip [6, kIouColumns], which are read once for all of them; the loop vectorizes.
template <typename T, typename... Rows>
void fill_rows(const T* __restrict strip, int64_t columns, Rows... rows) {
  const T* __restrict x1 = strip, * __restrict y1 = x1 + kIouColumns, * __restrict x2 = y1 + kIouColumns;
  const T* __restrict y2 = x2 + kIouColumns, * __restrict areas = y2 + kIouColumns, * __restrict angles = areas + kIouColumns;
  SSD_OPS_IVDEP
  for (int64_t j = 0; j < columns; ++j) {
    const Box<T> b{x1[j], y1[j], x2[j], y2[j]};
    ((rows.out[j] = rows.with(b, areas[j], angles[j])), ...);
  }
}

template <IouMetric metric, typename T>
void tiles(const IouParams<T>& params, int64_t begin, int64_t end) {
  const int64_t row_tiles = ceil_div(params.n, kIouRows), strips = ceil_div(params.m, kIouColumns);
  alignas(64) T strip[6 * kIouColumns];
  for (int64_t tile = begin; tile < end; ++tile) {
    const int64_t batch = tile / row_tiles / strips, first = tile / row_tiles % strips * kIouColumns;
    const int64_t columns = params.m - first < kIouColumns ? params.m - first : kIouColumns;
    if (tile == begin || tile % row_tiles == 0)
      split_boxes(params.columns + 4 * (batch * params.m + first), columns, kIouColumns, metric == IouMetric::complete,
                  strip);
    const auto row = [&](int64_t n) {
      const int64_t index = batch * params.n + n;
      return Row<metric, T>(params.rows + 4 * index, params.out + index * params.m + first);
    };
    int64_t n = tile % row_tiles * kIouRows;
    const int64_t last = params.n - n < kIouRows ? params.n : n + kIouRows;
    for (; n + 4 <= last; n += 4) fill_rows(strip, columns, row(n), row(n + 1), row(n + 2), row(n + 3));
    for (; n < last; ++n) fill_rows(strip, columns, row(n));
  }
}

template <typename T>
void dispatch_metric(const IouParams<T>& params, int64_t begin, int64_t end) {
  switch (params.metric) {
    case IouMetric::iou: return tiles<IouMetric::iou>(params, begin, end);
    case IouMetric::generalized: return tiles<IouMetric::generalized>(params, begin, end);
    case IouMetric::distance: return tiles<IouMetric::distance>(params, begin, end);
    case IouMetric::complete: return tiles<IouMetric::complete>(params, begin, end);
  }
}

}  // namespace

void iou_tiles(const IouParams<float>& params, int64_t begin, int64_t end) { dispatch_metric(params, begin, end); }
void iou_tiles(const IouParams<double>& params, int64_t begin, int64_t end) { dispatch_metric(params, begin, end); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
