// match_priors: validation, allocation, and dispatch to the kernels.
#include "cpu/match/match_priors.h"

#include <algorithm>

#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/match/match_priors.h"
#endif

namespace ssd_ops {
namespace {

// Values are validated on the CPU only: on a GPU that would synchronize. The emulated kernels behave as on a GPU.
void check_offsets(const Tensor& offsets, int64_t total) {
  check_shape("offsets", offsets, "[B + 1]", offsets.dim() == 1 && offsets.size(0) >= 1);
  check_dtype("offsets", offsets, ScalarType::Long);
  if (uses_cuda_kernels(offsets)) return;
  const Tensor values = torch::stable::contiguous(offsets);
  const int64_t* v = values.const_data_ptr<int64_t>();
  const int64_t last = offsets.size(0) - 1;
  for (int64_t i = 0; i < last; ++i)
    if (v[i + 1] < v[i])
      fail("offsets must not decrease, got offsets[" + std::to_string(i) + "] = " + std::to_string(v[i]) +
           " and offsets[" + std::to_string(i + 1) + "] = " + std::to_string(v[i + 1]));
  if (v[0] != 0 || v[last] != total)
    fail("offsets must run from 0 to the number of boxes, " + std::to_string(total) + ", got " + std::to_string(v[0]) +
         " to " + std::to_string(v[last]));
}

void check_labels(const Tensor& labels) {
  if (uses_cuda_kernels(labels)) return;
  const Tensor values = torch::stable::contiguous(labels);
  const int64_t* v = values.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < labels.numel(); ++i)
    if (v[i] < 1) fail("gt_labels must be 1 or more, got " + std::to_string(v[i]) + " at index " + std::to_string(i));
}

struct Options {
  MatchRule rule;
  double iou_threshold;
  bool match_equal;  // positive at the threshold, not only above
  std::vector<double> variances;
};

Options check_inputs(const Tensor& gt_boxes, const Tensor& gt_labels, const Tensor& offsets,
                     const std::optional<Tensor>& ignore, const Tensor& priors, double iou_threshold,
                     const std::string& rule, bool match_equal, std::vector<double> variances) {
  check_boxes("gt_boxes", gt_boxes, "[sum G, 4]", 2);
  const int64_t total = gt_boxes.size(0);
  const auto one_each = [&] { return "[" + std::to_string(total) + "]"; };
  check_shape("gt_labels", gt_labels, one_each, has_shape(gt_labels, {total}));
  check_dtype("gt_labels", gt_labels, ScalarType::Long);
  check_same_device("gt_labels", gt_labels, "gt_boxes", gt_boxes);
  check_same_device("offsets", offsets, "gt_boxes", gt_boxes);
  check_offsets(offsets, total);
  if (ignore) {
    check_shape("ignore", *ignore, one_each, has_shape(*ignore, {total}));
    check_dtype("ignore", *ignore, ScalarType::Bool);
    check_same_device("ignore", *ignore, "gt_boxes", gt_boxes);
  }
  check_boxes("priors", priors, "[P, 4]", 2);
  check_same_device("priors", priors, "gt_boxes", gt_boxes);
  check_positive("iou_threshold", iou_threshold);
  const int chosen = check_one_of("rule", rule, {"greedy", "last", "none"});
  check_variances(variances);
  check_labels(gt_labels);
  return {static_cast<MatchRule>(chosen), iou_threshold, match_equal, std::move(variances)};
}

// The lowest positive IoU, so that kernels have one comparison, >=.
template <typename T>
T min_positive_iou(const Options& options) {
  if (options.match_equal) return round_threshold_up<T>(options.iou_threshold);
  return std::nextafter(round_threshold_down<T>(options.iou_threshold), std::numeric_limits<T>::infinity());
}

struct Results {
  Tensor labels, gt_index, loc_targets;
};

// Dense tensors in the dtype of the arithmetic.
struct Inputs {
  Tensor gt_boxes, gt_labels, offsets, ignore, priors;
  bool has_ignore;

  int64_t num_packed_gt() const { return gt_boxes.size(0); }
  int64_t num_images() const { return offsets.size(0) - 1; }
  int64_t num_priors() const { return priors.size(0); }
  const bool* ignore_flags() const { return has_ignore ? const_data<bool>(ignore) : nullptr; }
};

// Images are distributed over the threads; if there are too few of them, so are segments of the priors.
template <typename T>
void on_cpu(const Inputs& in, const Options& options, const Results& results) {
  constexpr ScalarType dtype = dtype_for<T>();
  const int64_t num_images = in.num_images(), num_packed_gt = in.num_packed_gt();
  const int64_t num_tiles = ceil_div(in.num_priors(), cpu::kPriorTile);
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
  const int64_t num_segments = num_images % threads == 0 ? 1 : std::min(threads, num_tiles);
  const Tensor arrays = empty(in.priors, {num_tiles, 5, cpu::kPriorTile}, dtype);
  const Tensor bounds = empty(in.priors, {num_tiles, 4}, dtype);
  const Tensor gt_arrays = empty(in.priors, {5, num_packed_gt}, dtype);
  const Tensor best_iou = empty(in.priors, {num_segments, num_packed_gt}, dtype);
  const Tensor best_prior = empty(in.offsets, {num_segments, num_packed_gt}, ScalarType::Long);
  const Tensor overlapping_gt = empty(in.offsets, {num_segments, num_packed_gt + 1}, ScalarType::Long);
  const cpu::PriorTiles<T> tiles{.priors = const_data<T>(in.priors),
                                 .num_priors = in.num_priors(),
                                 .num_tiles = num_tiles,
                                 .arrays = data<T>(arrays),
                                 .bounds = data<Box<T>>(bounds)};
  const cpu::MatchParams<T> params{.tiles = tiles,
                                   .gt_boxes = const_data<T>(in.gt_boxes),
                                   .gt_arrays = const_data<T>(gt_arrays),
                                   .gt_labels = const_data<int64_t>(in.gt_labels),
                                   .ignore = in.ignore_flags(),
                                   .offsets = const_data<int64_t>(in.offsets),
                                   .num_packed_gt = num_packed_gt,
                                   .num_segments = num_segments,
                                   .iou_threshold = min_positive_iou<T>(options),
                                   .rule = options.rule,
                                   .variances = variances_of<T>(options.variances.data()),
                                   .best_iou = data<T>(best_iou),
                                   .best_prior = data<int64_t>(best_prior),
                                   .overlapping_gt = data<int64_t>(overlapping_gt),
                                   .labels = data<int64_t>(results.labels),
                                   .gt_index = data<int64_t>(results.gt_index),
                                   .loc_targets = data<T>(results.loc_targets)};
  SSD_OPS_CPU(make_prior_tiles, tiles);
  SSD_OPS_CPU(split_gt_boxes, params.gt_boxes, num_packed_gt, data<T>(gt_arrays));
  const bool assigns = options.rule != MatchRule::none;
  torch::stable::parallel_for(0, num_images * num_segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      SSD_OPS_CPU(match_segment, params, i / num_segments, i % num_segments);
      if (assigns && num_segments == 1) SSD_OPS_CPU(assign_priors, params, i);
    }
  });
  if (!assigns || num_segments == 1) return;
  torch::stable::parallel_for(0, num_images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SSD_OPS_CPU(assign_priors, params, i);
  });
}

#ifdef SSD_OPS_WITH_CUDA
template <typename T>
void on_cuda(const Inputs& in, const Options& options, const Results& results) {
  const CudaScope scope(in.priors);
  const int64_t num_images = in.num_images(), num_packed_gt = in.num_packed_gt(), num_priors = in.num_priors();
  const int64_t numbers_per_tile = sizeof(PriorTile<T>) / sizeof(T);
  const Tensor tiles = empty(in.priors, {num_prior_tiles(num_priors), numbers_per_tile}, dtype_for<T>());
  const Tensor workspace = empty(in.offsets, {match_workspace_words(num_packed_gt, num_images)}, ScalarType::Long);
  const CudaMatchParams<T> params{.gt_boxes = const_data<Box<T>>(in.gt_boxes),
                                  .gt_labels = const_data<int64_t>(in.gt_labels),
                                  .ignore = in.ignore_flags(),
                                  .offsets = const_data<int64_t>(in.offsets),
                                  .priors = const_data<Box<T>>(in.priors),
                                  .num_packed_gt = num_packed_gt,
                                  .num_images = num_images,
                                  .num_priors = num_priors,
                                  .iou_threshold = min_positive_iou<T>(options),
                                  .rule = options.rule,
                                  .variances = variances_of<T>(options.variances.data()),
                                  .tiles = data<PriorTile<T>>(tiles),
                                  .workspace = data<long long>(workspace),
                                  .labels = data<int64_t>(results.labels),
                                  .gt_index = data<long long>(results.gt_index),
                                  .loc_targets = data<Box<T>>(results.loc_targets)};
  check_cuda(launch_match_priors(params, scope.stream()), "match_priors");
}
#endif

std::tuple<Tensor, Tensor, Tensor> match_priors(const Tensor& gt_boxes, const Tensor& gt_labels, const Tensor& offsets,
                                                const std::optional<Tensor>& ignore, const Tensor& priors,
                                                double iou_threshold, std::string rule, bool match_equal,
                                                std::vector<double> variances) {
  const Options options = check_inputs(gt_boxes, gt_labels, offsets, ignore, priors, iou_threshold, rule, match_equal,
                                       std::move(variances));
  const ScalarType dtype = compute_dtype({gt_boxes.scalar_type(), priors.scalar_type()});
  const int64_t num_images = offsets.size(0) - 1, num_priors = priors.size(0);
  const Results results{.labels = empty(priors, {num_images, num_priors}, ScalarType::Long),
                        .gt_index = empty(priors, {num_images, num_priors}, ScalarType::Long),
                        .loc_targets = empty(priors, {num_images, num_priors, 4}, dtype)};
  if (num_images * num_priors == 0) return {results.labels, results.gt_index, results.loc_targets};
  const Inputs in{.gt_boxes = dense(gt_boxes, dtype),
                  .gt_labels = dense(gt_labels),
                  .offsets = dense(offsets),
                  .ignore = dense(ignore ? *ignore : gt_labels),
                  .priors = dense(priors, dtype),
                  .has_ignore = ignore.has_value()};
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(priors)) return on_cuda<T>(in, options, results);
#endif
    on_cpu<T>(in, options, results);
  });
  return {results.labels, results.gt_index, results.loc_targets};
}

}  // namespace

SSD_OPS_REGISTER(match_priors, match_priors)

}  // namespace ssd_ops
