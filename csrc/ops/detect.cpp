// detect: validation, allocation, and dispatch to the kernels.
#include "cpu/select/detect.h"

#include "ops/detections.h"
#include "ops/detector_outputs.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/select/detect.h"
#endif

namespace ssd_ops {
namespace {

struct DetectOptions {
  double score_threshold, iou_threshold;
  int64_t candidates_per_class, max_detections;
  std::vector<double> variances;
  bool clip, suppress_equal, multi_label;
  double min_size;
};

void check(const DetectorOutputs& outputs, const Tensor& priors, const DetectOptions& options) {
  const int64_t num_priors = outputs.num_priors();
  check_shape(
      "priors", priors, [&] { return "[" + std::to_string(num_priors) + ", 4]"; }, has_shape(priors, {num_priors, 4}));
  check_floating("priors", priors);
  check_same_device("priors", priors, "loc", outputs.loc[0]);
  check_variances(options.variances);
  check_options(options.score_threshold, options.iou_threshold, options.max_detections);
  check_at_least_one("candidates_per_class", options.candidates_per_class);
  check_not_negative("min_size", options.min_size);
  check_candidate_count("logits", num_priors, outputs.num_classes);
}

// The CUDA kernels load deltas of every dtype, as they decode few; the CPU kernels load only `dtype`.
ScalarType loc_dtype(const DetectorOutputs& outputs, ScalarType dtype) {
  return uses_cuda_kernels(outputs.loc[0]) ? load_dtype(outputs.loc_type(), dtype) : dtype;
}

DetectionTensors detections_of(const DetectorOutputs& outputs, const Tensor& priors, const DetectOptions& options) {
  check(outputs, priors, options);
  const Tensor& like = outputs.logits[0];
  const int64_t num_images = outputs.num_images, num_priors = outputs.num_priors();
  const ScalarType dtype = compute_dtype({outputs.loc_type(), outputs.logits_type(), priors.scalar_type()});
  if (num_images * num_priors == 0) return no_detections(like, num_images, options.max_detections, dtype);
  const DetectionTensors result = new_detections(like, num_images, options.max_detections, dtype);
  const std::vector<Tensor> logits = dense_rows(outputs.logits, load_dtype(outputs.logits_type(), dtype));
  const std::vector<Tensor> loc = dense_rows(outputs.loc, loc_dtype(outputs, dtype));
  const Tensor dense_priors = dense(priors, dtype);
  const ScoreRows scores{nullptr, dtype_of(logits[0]), num_priors, outputs.num_classes};
  const SelectOptions select{options.score_threshold, suppress_threshold(options.iou_threshold, options.suppress_equal),
                             options.min_size, options.candidates_per_class};
  const bool best_only = !options.multi_label;
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
    cpu::DetectParams<T> params{.select = select_params<T>(scores, select, result),
                                .segments = {},
                                .levels = outputs.levels,
                                .logits = const_rows<void>(logits),
                                .loc = const_rows<Box<T>>(loc),
                                .priors = const_data<Box<T>>(dense_priors),
                                .variances = variances_of<T>(options.variances.data()),
                                .clip = options.clip,
                                .best_only = best_only};
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(like)) {
      const CudaScope scope(like);
      const auto bytes = static_cast<int64_t>(detect_workspace_bytes(params.select, num_images, best_only));
      const Tensor workspace = empty(like, {bytes}, ScalarType::Byte);
      const BoxSource<T> source{.levels = params.levels,
                                .boxes = const_rows<void>(loc),
                                .boxes_dtype = dtype_of(loc[0]),
                                .boxes_by_class = false,
                                .priors = params.priors,
                                .variances = params.variances,
                                .clip = params.clip};
      check_cuda(launch_detect(params.select, params.logits, source, best_only, num_images,
                               workspace.mutable_data_ptr(), scope.stream()),
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

// Outputs is Tensor, or std::vector<Tensor> with a tensor for each level.
template <typename Outputs>
DetectionTensors detect(const Outputs& loc, const Outputs& logits, const Tensor& priors, double score_threshold,
                        double iou_threshold, int64_t candidates_per_class, int64_t max_detections,
                        std::vector<double> variances, bool clip, bool suppress_equal, bool multi_label,
                        double min_size) {
  return detections_of(detector_outputs(loc, logits), priors,
                       {score_threshold, iou_threshold, candidates_per_class, max_detections, std::move(variances),
                        clip, suppress_equal, multi_label, min_size});
}

}  // namespace

SSD_OPS_REGISTER(detect, detect<Tensor>)
SSD_OPS_REGISTER(detect_levels, detect<std::vector<Tensor>>)

}  // namespace ssd_ops
