// box_iou, generalized_, distance_ and complete_box_iou: validation, allocation, and dispatch to the kernels.
#include "cpu/iou/box_iou.h"

#include <algorithm>

#include "ops/box_pairs.h"
#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/iou/box_iou.h"
#endif

namespace ssd_ops {
namespace {

template <typename T>
void on_cpu(const Tensor& boxes1, const Tensor& boxes2, Tensor& out, int64_t batch, int64_t n, int64_t m,
            IouMetric metric) {
  constexpr ScalarType dtype = dtype_for<T>();
  const Tensor rows = dense(boxes1, dtype), columns = dense(boxes2, dtype);
  const cpu::IouParams<T> params{.rows = const_data<T>(rows),
                                 .columns = const_data<T>(columns),
                                 .out = data<T>(out),
                                 .n = n,
                                 .m = m,
                                 .metric = metric};
  const int64_t strips = ceil_div(m, cpu::kIouColumns), row_tiles = ceil_div(n, cpu::kIouRows);
  const int64_t pairs = std::min(n, cpu::kIouRows) * std::min(m, cpu::kIouColumns);
  const int64_t grain = pairs > 0 ? 1 + 16384 / pairs : 1;  // tiles that are worth a thread
  chosen_isa();
  torch::stable::parallel_for(0, batch * strips * row_tiles, grain,
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(iou_tiles, params, begin, end); });
}

void fill(const Tensor& boxes1, const Tensor& boxes2, Tensor out, IouMetric metric) {
  const int64_t n = boxes1.size(boxes1.dim() - 2), m = boxes2.size(boxes2.dim() - 2);
  if (out.numel() == 0) return;
  const int64_t batch = out.numel() / (n * m);
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(boxes1)) {
    const CudaScope scope(boxes1);
    const Tensor dense1 = dense(boxes1), dense2 = dense(boxes2);
    check_cuda(launch_box_iou(dtype_of(boxes1), dense1.const_data_ptr(), dense2.const_data_ptr(),
                              out.mutable_data_ptr(), batch, n, m, metric, scope.stream()),
               "box_iou");
    return;
  }
#endif
  dispatch_compute(out.scalar_type(),
                   [&](auto type) { on_cpu<decltype(type)>(boxes1, boxes2, out, batch, n, m, metric); });
}

template <IouMetric metric>
Tensor box_iou(const Tensor& boxes1, const Tensor& boxes2) {
  check_pairs(boxes1, boxes2);
  const std::vector<int64_t> shape = pairs_shape(boxes1, boxes2);
  Tensor out = empty(boxes1, Shape(shape.data(), shape.size()), compute_dtype({boxes1.scalar_type()}));
  fill(boxes1, boxes2, out, metric);
  return out;
}

void box_iou_out(const Tensor& boxes1, const Tensor& boxes2, const Tensor& out) {
  check_pairs(boxes1, boxes2);
  const std::vector<int64_t> shape = pairs_shape(boxes1, boxes2);
  check_shape(
      "out", out, [&] { return bracketed(shape); },
      std::vector<int64_t>(out.sizes().begin(), out.sizes().end()) == shape);
  check_dtype("out", out, compute_dtype({boxes1.scalar_type()}));
  check_same_device("out", out, "boxes1", boxes1);
  if (!out.is_contiguous()) fail("out must be contiguous, got strides " + bracketed(out.strides()));
  check_no_shared_memory("out", out, "boxes1", boxes1);
  check_no_shared_memory("out", out, "boxes2", boxes2);
  fill(boxes1, boxes2, out, IouMetric::iou);
}

}  // namespace

SSD_OPS_REGISTER(box_iou, box_iou<IouMetric::iou>)
SSD_OPS_REGISTER(box_iou_out, box_iou_out)
SSD_OPS_REGISTER(generalized_box_iou, box_iou<IouMetric::generalized>)
SSD_OPS_REGISTER(distance_box_iou, box_iou<IouMetric::distance>)
SSD_OPS_REGISTER(complete_box_iou, box_iou<IouMetric::complete>)

}  // namespace ssd_ops
