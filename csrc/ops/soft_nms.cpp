// soft_nms: validation, allocation, and dispatch to the kernels.
#include "cpu/select/soft_nms.h"

#include "ops/detections.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/select/soft_nms.h"
#endif

namespace ssd_ops {
namespace {

template <typename T>
void on_cpu(const SoftNmsParams<T>& params, int64_t num_images) {
  chosen_isa();
  torch::stable::parallel_for(0, num_images * ceil_div(params.num_classes, cpu::kClassGroup), 1,
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(soft_nms_classes, params, begin, end); });
  torch::stable::parallel_for(0, num_images, 1,
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(soft_nms_merge, params, begin, end); });
}

DetectionTensors soft_nms(const Tensor& boxes, const Tensor& scores, std::string method, double sigma,
                          double iou_threshold, double score_threshold, int64_t max_detections, bool suppress_equal,
                          bool keep_equal) {
  check_scored(boxes, scores, score_threshold, iou_threshold, max_detections);
  const bool gaussian = check_one_of("method", method, {"linear", "gaussian"}) == 1;
  check_positive("sigma", sigma);
  const double decay_above = suppress_threshold(iou_threshold, suppress_equal);
  const int64_t num_images = scores.size(0), num_boxes = scores.size(1), num_classes = scores.size(2);
  check_candidate_count("scores", num_boxes, num_classes);
  const ScalarType dtype = compute_dtype({boxes.scalar_type(), scores.scalar_type()});
  if (scores.numel() == 0) return no_detections(scores, num_images, max_detections, dtype);
  const DetectionTensors result = new_detections(scores, num_images, max_detections, dtype);
  const Tensor dense_scores = dense_for(scores, dtype), dense_boxes = dense(boxes, dtype);
  const int64_t class_capacity = std::min(num_boxes, max_detections);
  const Tensor class_counts = empty(scores, {num_images, num_classes}, ScalarType::Long);
  const Tensor class_scores = empty(scores, {num_images, num_classes, class_capacity}, dtype);
  const Tensor class_box_indices = empty(scores, {num_images, num_classes, class_capacity}, ScalarType::Int);
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    const SoftNmsParams<T> params{.scores = dense_scores.const_data_ptr(),
                                  .dtype = dtype_of(dense_scores),
                                  .num_boxes = num_boxes,
                                  .num_classes = num_classes,
                                  .boxes = const_data<Box<T>>(dense_boxes),
                                  .boxes_by_class = boxes.dim() == 4,
                                  .gaussian = gaussian,
                                  .sigma = static_cast<T>(sigma),
                                  .iou_threshold = round_threshold_down<T>(decay_above),
                                  .score_threshold = keep_equal ? round_threshold_up<T>(score_threshold)
                                                                : next_above(round_threshold_down<T>(score_threshold)),
                                  .out = detections_out<T>(result),
                                  .class_capacity = class_capacity,
                                  .class_counts = data<int64_t>(class_counts),
                                  .class_scores = data<T>(class_scores),
                                  .class_box_indices = data<uint32_t>(class_box_indices)};
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(boxes)) {
      const CudaScope scope(boxes);
      const auto bytes = static_cast<int64_t>(soft_nms_workspace_bytes(params, num_images));
      const Tensor workspace = empty(boxes, {bytes}, ScalarType::Byte);
      check_cuda(launch_soft_nms(params, num_images, workspace.mutable_data_ptr(), scope.stream()), "soft_nms");
      return;
    }
#endif
    on_cpu(params, num_images);
  });
  return result;
}

}  // namespace

SSD_OPS_REGISTER(soft_nms, soft_nms)

}  // namespace ssd_ops
