// detect: checks, allocation, and the way to the kernels.
#include "cpu/select/detect.h"

#include "ops/detections.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/select/detect.h"
#endif

namespace ssd_ops {
namespace {

void check_inputs(const Tensor& loc, const Tensor& logits, const Tensor& priors) {
  check_boxes("loc", loc, "[B, P, 4]", 3);
  const int64_t batch = loc.size(0), count = loc.size(1);
  check_shape("logits", logits, "[" + std::to_string(batch) + ", " + std::to_string(count) + ", C]",
              logits.dim() == 3 && logits.size(0) == batch && logits.size(1) == count);
  check_floating("logits", logits);
  if (logits.size(2) < 1) fail("logits must have at least 1 class, the background, got shape " + shape_of(logits));
  check_shape("priors", priors, "[" + std::to_string(count) + ", 4]", has_shape(priors, {count, 4}));
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
  const int64_t batch = logits.size(0), rows = logits.size(1), classes = logits.size(2);
  check_numbered("logits", rows, classes);
  const ScalarType dtype = compute_dtype({loc.scalar_type(), logits.scalar_type(), priors.scalar_type()});
  if (logits.numel() == 0) return no_detections(logits, batch, max_detections, dtype);
  DetectionTensors result = new_detections(logits, batch, max_detections, dtype);
  const Tensor read_logits = dtype == ScalarType::Double ? dense(logits, dtype) : dense(logits);
  const Tensor read_loc = dense(loc, dtype), read_priors = dense(priors, dtype);
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    cpu::DetectTask<T> task{select_task<T>(read_logits, score_threshold, suppress_above, min_size, candidates_per_class,
                                           out_of<T>(result, max_detections)),
                            static_cast<const Box<T>*>(read_loc.const_data_ptr()),
                            static_cast<const Box<T>*>(read_priors.const_data_ptr()),
                            {{static_cast<T>(variances[0]), static_cast<T>(variances[1]), static_cast<T>(variances[2]),
                              static_cast<T>(variances[3])}},
                            clip,
                            best_only};
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(loc)) {
      const CudaScope scope(loc);
      const auto bytes = static_cast<int64_t>(detect_workspace_bytes(task.select, batch, best_only));
      const Tensor workspace = empty(loc, {bytes}, ScalarType::Byte);
      const BoxSource<T> source{task.loc, false, task.priors, task.variances, clip, nullptr, 0};
      check_cuda(launch_detect(task.select, source, best_only, batch, workspace.mutable_data_ptr(), scope.stream()),
                 "detect");
      return;
    }
#endif
    over_images(
        task.select, batch, [&](int64_t begin, int64_t end) { SSD_OPS_CPU(scan_logits, task, begin, end); },
        [&](int64_t begin, int64_t end) { SSD_OPS_CPU(detect, task, begin, end); });
  });
  return result;
}

}  // namespace

SSD_OPS_REGISTER(detect, detect)

}  // namespace ssd_ops
