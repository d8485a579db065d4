// grad_box_iou: the gradients of the IoU family's matrices; validation, allocation, and dispatch to the kernels.
#include "cpu/iou/grad_box_iou.h"

#include "ops/box_pairs.h"
#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/iou/grad_box_iou.h"
#endif

namespace ssd_ops {
namespace {

// The tiles on the CPU: at most 8 x 8, a function of the shape alone, so that sums do not depend on the threads.
int64_t tile_size(int64_t count, int64_t chunk) { return ceil_div(ceil_div(count, chunk), 8) * chunk; }

template <typename T>
void on_cpu(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2, Tensor& grad1, Tensor& grad2, int64_t batch,
            int64_t n, int64_t m, IouMetric metric) {
  constexpr ScalarType dtype = dtype_for<T>();
  chosen_isa();
  const Tensor dense_grad = dense(grad, dtype), rows = dense(boxes1, dtype), columns = dense(boxes2, dtype);
  const int64_t tile_rows = tile_size(n, cpu::kRowChunk), tile_columns = tile_size(m, cpu::kColumnChunk);
  const int64_t row_tiles = ceil_div(n, tile_rows), column_tiles = ceil_div(m, tile_columns);
  Tensor arrays = empty(boxes1, {6, m}, dtype);
  Tensor row_sums = empty(boxes1, {column_tiles, kPairGradSize, n}, ScalarType::Double);
  Tensor column_sums = empty(boxes1, {row_tiles, kPairGradSize, m}, ScalarType::Double);
  for (int64_t b = 0; b < batch; ++b) {
    const T *row_boxes = const_data<T>(rows) + b * n * 4, *column_boxes = const_data<T>(columns) + b * m * 4;
    T* soa = data<T>(arrays);
    SSD_OPS_CPU(iou_columns, column_boxes, m, metric == IouMetric::complete, soa);
    const cpu::GradIouParams<T> params{.grad = const_data<T>(dense_grad) + b * n * m,
                                       .rows = row_boxes,
                                       .columns = soa,
                                       .row_sums = data<double>(row_sums),
                                       .column_sums = data<double>(column_sums),
                                       .n = n,
                                       .m = m,
                                       .tile_rows = tile_rows,
                                       .tile_columns = tile_columns,
                                       .metric = metric};
    const int64_t pairs = tile_rows * tile_columns, grain = 1 + 8192 / pairs;
    torch::stable::parallel_for(0, row_tiles * column_tiles, grain,
                                [&](int64_t begin, int64_t end) { SSD_OPS_CPU(grad_iou_tiles, params, begin, end); });
    SSD_OPS_CPU(grad_iou_boxes, static_cast<const double*>(params.row_sums), column_tiles, n, row_boxes,
                data<T>(grad1) + b * n * 4);
    SSD_OPS_CPU(grad_iou_boxes, static_cast<const double*>(params.column_sums), row_tiles, m, column_boxes,
                data<T>(grad2) + b * m * 4);
  }
}

Tensor zeros_like_boxes(const Tensor& boxes) {
  Tensor zeros = empty(boxes, boxes.sizes(), boxes.scalar_type());
  return torch::stable::zero_(zeros);
}

std::tuple<Tensor, Tensor> grad_box_iou(const Tensor& grad, const Tensor& boxes1, const Tensor& boxes2,
                                        std::string metric_name) {
  const auto metric = static_cast<IouMetric>(
      check_one_of("metric", metric_name, {"box_iou", "generalized_box_iou", "distance_box_iou", "complete_box_iou"}));
  check_pairs(boxes1, boxes2);
  check_gradient(grad, "boxes1", boxes1, pairs_shape(boxes1, boxes2));
  const int64_t n = boxes1.size(boxes1.dim() - 2), m = boxes2.size(boxes2.dim() - 2);
  if (grad.numel() == 0) return {zeros_like_boxes(boxes1), zeros_like_boxes(boxes2)};
  const int64_t batch = grad.numel() / (n * m);
  const ScalarType dtype = compute_dtype({boxes1.scalar_type()});
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(boxes1)) {
    const CudaScope scope(boxes1);
    const Tensor dense_grad = dense(grad, dtype), dense1 = dense(boxes1), dense2 = dense(boxes2);
    const GradIouTiles tiles = grad_iou_tiles(n, m);
    Tensor row_sums = empty(boxes1, {batch, tiles.column_tiles, kPairGradSize, n}, dtype);
    Tensor column_sums = empty(boxes1, {batch, tiles.row_tiles, kPairGradSize, m}, dtype);
    Tensor grad1 = empty(boxes1, boxes1.sizes(), boxes1.scalar_type());
    Tensor grad2 = empty(boxes2, boxes2.sizes(), boxes2.scalar_type());
    check_cuda(launch_grad_box_iou(dtype_of(boxes1), metric, dense_grad.const_data_ptr(), dense1.const_data_ptr(),
                                   dense2.const_data_ptr(), row_sums.mutable_data_ptr(), column_sums.mutable_data_ptr(),
                                   grad1.mutable_data_ptr(), grad2.mutable_data_ptr(), batch, n, m, scope.stream()),
               "grad_box_iou");
    return {grad1, grad2};
  }
#endif
  Tensor grad1 = empty(boxes1, boxes1.sizes(), dtype);
  Tensor grad2 = empty(boxes2, boxes2.sizes(), dtype);
  dispatch_compute(dtype,
                   [&](auto type) { on_cpu<decltype(type)>(grad, boxes1, boxes2, grad1, grad2, batch, n, m, metric); });
  return {as_dtype(grad1, boxes1.scalar_type()), as_dtype(grad2, boxes2.scalar_type())};
}

}  // namespace

SSD_OPS_REGISTER(grad_box_iou, grad_box_iou)

}  // namespace ssd_ops
