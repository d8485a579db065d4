// multiclass_nms: checks, allocation, and the way to the kernels.
#include "cpu/select/multiclass_nms.h"

#include "ops/detections.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/select/multiclass_nms.h"
#endif

namespace ssd_ops {
namespace {

DetectionTensors multiclass_nms(const Tensor& boxes, const Tensor& scores, double score_threshold, double iou_threshold,
                                int64_t candidates_per_class, int64_t max_detections, bool suppress_equal,
                                double min_size) {
  check_scored(boxes, scores, score_threshold, iou_threshold, max_detections);
  check_at_least_one("candidates_per_class", candidates_per_class);
  const double suppress_above = suppress_threshold(iou_threshold, suppress_equal);
  check_not_negative("min_size", min_size);
  const int64_t batch = scores.size(0), rows = scores.size(1), classes = scores.size(2);
  check_numbered("scores", rows, classes);
  const ScalarType dtype = compute_dtype({boxes.scalar_type(), scores.scalar_type()});
  if (scores.numel() == 0) return no_detections(scores, batch, max_detections, dtype);
  DetectionTensors result = new_detections(scores, batch, max_detections, dtype);
  const Tensor read_scores = dtype == ScalarType::Double ? dense(scores, dtype) : dense(scores);
  const Tensor read_boxes = dense(boxes, dtype);
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    const auto* box = static_cast<const Box<T>*>(read_boxes.const_data_ptr());
    const auto select = select_task<T>(read_scores, score_threshold, suppress_above, min_size, candidates_per_class,
                                       out_of<T>(result, max_detections));
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(boxes)) {
      const CudaScope scope(boxes);
      const auto bytes = static_cast<int64_t>(multiclass_nms_workspace_bytes<T>(batch, rows, classes));
      const Tensor workspace = empty(boxes, {bytes}, ScalarType::Byte);
      const BoxSource<T> source{box, boxes.dim() == 4, nullptr, {}, false, nullptr, 0};
      check_cuda(launch_multiclass_nms(select, source, batch, workspace.mutable_data_ptr(), scope.stream()),
                 "multiclass_nms");
      return;
    }
#endif
    cpu::MulticlassTask<T> task{select, box, boxes.dim() == 4};
    over_images(
        task.select, batch, [&](int64_t begin, int64_t end) { SSD_OPS_CPU(scan_scores, task, begin, end); },
        [&](int64_t begin, int64_t end) { SSD_OPS_CPU(multiclass_nms, task, begin, end); });
  });
  return result;
}

}  // namespace

SSD_OPS_REGISTER(multiclass_nms, multiclass_nms)

}  // namespace ssd_ops
