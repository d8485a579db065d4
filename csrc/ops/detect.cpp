// detect: validation, allocation, and dispatch to the kernels.
#include "cpu/select/detect.h"

#include "ops/detections.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/select/detect.h"
#endif

namespace ssd_ops {
namespace {

void check_inputs(const Tensor& loc, const Tensor& logits, const Tensor& priors) {
  check_boxes("loc", loc, "[B, P, 4]", 3);
  const int64_t num_images = loc.size(0), num_priors = loc.size(1);
  check_shape("logits", logits, "[" + std::to_string(num_images) + ", " + std::to_string(num_priors) + ", C]",
              logits.dim() == 3 && logits.size(0) == num_images && logits.size(1) == num_priors);
  check_floating("logits", logits);
  if (logits.size(2) < 1) fail("logits must have at least 1 class, the background, got shape " + shape_of(logits));
  check_shape("priors", priors, "[" + std::to_string(num_priors) + ", 4]", has_shape(priors, {num_priors, 4}));
  check_floating("priors", priors);
  check_same_device("logits", logits, "loc", loc);
  check_same_device("priors", priors, "loc", loc);
}

DetectionTensors detect(const Tensor& loc, const Tensor& logits, const Tensor& priors, double score_threshold,
                        double iou_threshold, int64_t candidates_per_class, int64_t max_detections,
                        std::vector<double> variances, bool clip, bool suppress_equal, bool multi_label,
                        double min_size) {
  check_inputs(loc, logits, priors);
  check_variances(variances);
  check_options(score_threshold, iou_threshold, max_detections);
  check_at_least_one("candidates_per_class", candidates_per_class);
  const double suppress_above = suppress_threshold(iou_threshold, suppress_equal);
  const bool best_only = !multi_label;
  check_not_negative("min_size", min_size);
  const int64_t num_images = logits.size(0);
  check_candidate_count("logits", logits.size(1), logits.size(2));
  const ScalarType dtype = compute_dtype({loc.scalar_type(), logits.scalar_type(), priors.scalar_type()});
  if (logits.numel() == 0) return no_detections(logits, num_images, max_detections, dtype);
  const DetectionTensors result = new_detections(logits, num_images, max_detections, dtype);
  const Tensor dense_logits = dense_for(logits, dtype), dense_loc = dense(loc, dtype);
  const Tensor dense_priors = dense(priors, dtype);
  const SelectOptions options{score_threshold, suppress_above, min_size, candidates_per_class};
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    cpu::DetectParams<T> params{.select = select_params<T>(dense_logits, options, result),
                                .segments = {},
                                .loc = const_data<Box<T>>(dense_loc),
                                .priors = const_data<Box<T>>(dense_priors),
                                .variances = variances_of<T>(variances.data()),
                                .clip = clip,
                                .best_only = best_only};
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(loc)) {
      const CudaScope scope(loc);
      const auto bytes = static_cast<int64_t>(detect_workspace_bytes(params.select, num_images, best_only));
      const Tensor workspace = empty(loc, {bytes}, ScalarType::Byte);
      const BoxSource<T> source{.boxes = params.loc,
                                .boxes_by_class = false,
                                .priors = params.priors,
                                .variances = params.variances,
                                .clip = clip,
                                .class_box_indices = nullptr,
                                .class_capacity = 0};
      check_cuda(
          launch_detect(params.select, source, best_only, num_images, workspace.mutable_data_ptr(), scope.stream()),
          "detect");
      return;
    }
#endif
    over_images(
        params, num_images, [&](int64_t begin, int64_t end) { SSD_OPS_CPU(scan_logits, params, begin, end); },
        [&](int64_t begin, int64_t end) { SSD_OPS_CPU(detect, params, begin, end); });
  });
  return result;
}

}  // namespace

SSD_OPS_REGISTER(detect, detect)

}  // namespace ssd_ops
