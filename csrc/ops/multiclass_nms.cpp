// multiclass_nms: validation, allocation, and dispatch to the kernels.
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
  const int64_t num_images = scores.size(0), num_boxes = scores.size(1), num_classes = scores.size(2);
  check_candidate_count("scores", num_boxes, num_classes);
  const ScalarType dtype = compute_dtype({boxes.scalar_type(), scores.scalar_type()});
  if (scores.numel() == 0) return no_detections(scores, num_images, max_detections, dtype);
  const DetectionTensors result = new_detections(scores, num_images, max_detections, dtype);
  // The CUDA kernels load boxes of every dtype, as they need few; the CPU kernels load only `dtype`.
  const Tensor dense_scores = dense_for(scores, dtype),
               dense_boxes = uses_cuda_kernels(boxes) ? dense_for(boxes, dtype) : dense(boxes, dtype);
  const bool boxes_by_class = boxes.dim() == 4;
  const SelectOptions options{score_threshold, suppress_above, min_size, candidates_per_class};
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    cpu::MulticlassParams<T> params{.select = select_params<T>(score_rows(dense_scores), options, result),
                                    .segments = {},
                                    .boxes = const_data<Box<T>>(dense_boxes),
                                    .boxes_by_class = boxes_by_class};
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(boxes)) {
      const CudaScope scope(boxes);
      const auto bytes = static_cast<int64_t>(multiclass_nms_workspace_bytes(params.select, num_images));
      const Tensor workspace = empty(boxes, {bytes}, ScalarType::Byte);
      const BoxSource<T> source{.levels = one_level(num_boxes),
                                .boxes = {{dense_boxes.const_data_ptr()}},
                                .boxes_dtype = dtype_of(dense_boxes),
                                .boxes_by_class = boxes_by_class,
                                .priors = nullptr,
                                .variances = {},
                                .clip = false};
      check_cuda(launch_multiclass_nms(params.select, source, num_images, workspace.mutable_data_ptr(), scope.stream()),
                 "multiclass_nms");
      return;
    }
#endif
    over_images(
        params, num_images, [&](int64_t begin, int64_t end) { SSD_OPS_CPU(scan_scores, params, begin, end); },
        [&](int64_t begin, int64_t end) { SSD_OPS_CPU(multiclass_nms, params, begin, end); });
  });
  return result;
}

}  // namespace

SSD_OPS_REGISTER(multiclass_nms, multiclass_nms)

}  // namespace ssd_ops
