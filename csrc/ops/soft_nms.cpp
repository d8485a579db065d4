// soft_nms: checks, allocation, and the way to the kernels.
#include "cpu/select/soft_nms.h"

#include "ops/detections.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/select/soft_nms.h"
#endif

namespace ssd_ops {
namespace {

DetectionTensors soft_nms(const Tensor& boxes, const Tensor& scores, std::string method, double sigma,
                          double iou_threshold, double score_threshold, int64_t max_detections, bool suppress_equal,
                          bool keep_equal) {
  check_scored(boxes, scores, score_threshold, iou_threshold, max_detections);
  const bool gaussian = check_one_of("method", method, {"linear", "gaussian"}) == 1;
  check_positive("sigma", sigma);
  const double lower_above = suppress_threshold(iou_threshold, suppress_equal);
  const int64_t batch = scores.size(0), rows = scores.size(1), classes = scores.size(2);
  check_numbered("scores", rows, classes);
  const ScalarType dtype = compute_dtype({boxes.scalar_type(), scores.scalar_type()});
  if (scores.numel() == 0) return no_detections(scores, batch, max_detections, dtype);
  DetectionTensors result = new_detections(scores, batch, max_detections, dtype);
  const Tensor read_scores = dtype == ScalarType::Double ? dense(scores, dtype) : dense(scores);
  const Tensor read_boxes = dense(boxes, dtype);
  const int64_t room = std::min(rows, max_detections);
  const Tensor taken = empty(scores, {batch, classes}, ScalarType::Long);
  const Tensor taken_scores = empty(scores, {batch, classes, room}, dtype);
  const Tensor taken_rows = empty(scores, {batch, classes, room}, ScalarType::Int);
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    const SoftTask<T> task{
        read_scores.const_data_ptr(),
        dtype_of(read_scores),
        rows,
        classes,
        static_cast<const Box<T>*>(read_boxes.const_data_ptr()),
        boxes.dim() == 4,
        gaussian,
        static_cast<T>(sigma),
        threshold_below<T>(lower_above),
        keep_equal ? threshold_above<T>(score_threshold) : next_above(threshold_below<T>(score_threshold)),
        out_of<T>(result, max_detections),
        room,
        taken.mutable_data_ptr<int64_t>(),
        static_cast<T*>(taken_scores.mutable_data_ptr()),
        static_cast<uint32_t*>(taken_rows.mutable_data_ptr())};
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(boxes)) {
      const CudaScope scope(boxes);
      const auto bytes = static_cast<int64_t>(soft_nms_workspace_bytes(task, batch));
      const Tensor workspace = empty(boxes, {bytes}, ScalarType::Byte);
      check_cuda(launch_soft_nms(task, batch, workspace.mutable_data_ptr(), scope.stream()), "soft_nms");
      return;
    }
#endif
    chosen_isa();
    const int64_t groups = (classes + cpu::kSoftClasses - 1) / cpu::kSoftClasses;
    torch::stable::parallel_for(0, batch * groups, 1,
                                [&](int64_t begin, int64_t end) { SSD_OPS_CPU(soft_nms_classes, task, begin, end); });
    torch::stable::parallel_for(0, batch, 1,
                                [&](int64_t begin, int64_t end) { SSD_OPS_CPU(soft_nms_merge, task, begin, end); });
  });
  return result;
}

}  // namespace

SSD_OPS_REGISTER(soft_nms, soft_nms)

}  // namespace ssd_ops
