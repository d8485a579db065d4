// match_priors: checks, allocation, and the way to the kernels.
#include "cpu/match/match_priors.h"

#include <algorithm>

#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/match/match_priors.h"
#include "ops/cuda_route.h"
#endif

namespace ssd_ops {
namespace {

// Values are looked at on the CPU only: looking on a GPU would make the host wait. The emulated kernels stand for a
// GPU.
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
  ClaimRule rule;
  double iou_threshold;
  bool match_equal;  // positive at the threshold, not only above
  std::vector<double> variances;
};

Options check_inputs(const Tensor& gt_boxes, const Tensor& gt_labels, const Tensor& offsets,
                     const std::optional<Tensor>& ignore, const Tensor& priors, double iou_threshold,
                     const std::string& rule, bool match_equal, std::vector<double> variances) {
  check_boxes("gt_boxes", gt_boxes, "[sum G, 4]", 2);
  const int64_t total = gt_boxes.size(0);
  const std::string one_each = "[" + std::to_string(total) + "]";
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
  return {static_cast<ClaimRule>(chosen), iou_threshold, match_equal, std::move(variances)};
}

// The lowest T that passes, so that kernels know one comparison, >=.
template <typename T>
T lowest_passing(const Options& options) {
  if (options.match_equal) return threshold_above<T>(options.iou_threshold);
  return std::nextafter(threshold_below<T>(options.iou_threshold), std::numeric_limits<T>::infinity());
}

template <typename T>
Variances<T> four(const std::vector<double>& v) {
  return {{static_cast<T>(v[0]), static_cast<T>(v[1]), static_cast<T>(v[2]), static_cast<T>(v[3])}};
}

struct Results {
  Tensor labels, gt_index, loc_targets;
};

template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Everything is dense and of the dtype of T. Images are shared out among threads; where there are too few of them to
// keep all busy, so are ranges of priors.
template <typename T>
void on_cpu(const Tensor& gt_boxes, const Tensor& gt_labels, const Tensor& offsets, const bool* ignore,
            const Tensor& priors, const Options& options, const Results& results) {
  constexpr ScalarType dtype = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  const int64_t batch = offsets.size(0) - 1, objects = gt_boxes.size(0), count = priors.size(0);
  const int64_t tiles = (count + cpu::kMatchTile - 1) / cpu::kMatchTile;
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
  const int64_t chunks = batch % threads == 0 ? 1 : std::min(threads, tiles);
  const Tensor arrays = empty(priors, {tiles, 5, cpu::kMatchTile}, dtype), around = empty(priors, {tiles, 4}, dtype);
  const Tensor gt_arrays = empty(priors, {5, objects}, dtype), best_iou = empty(priors, {chunks, objects}, dtype);
  const Tensor best_prior = empty(offsets, {chunks, objects}, ScalarType::Long);
  const Tensor near = empty(offsets, {chunks, objects + 1}, ScalarType::Long);
  const cpu::PriorTiles<T> prior_tiles{data<T>(priors), count, tiles, data<T>(arrays), data<Box<T>>(around)};
  const cpu::MatchTask<T> task{prior_tiles,
                               data<T>(gt_boxes),
                               data<T>(gt_arrays),
                               data<int64_t>(gt_labels),
                               ignore,
                               data<int64_t>(offsets),
                               objects,
                               chunks,
                               lowest_passing<T>(options),
                               options.rule,
                               four<T>(options.variances),
                               data<T>(best_iou),
                               data<int64_t>(best_prior),
                               data<int64_t>(near),
                               data<int64_t>(results.labels),
                               data<int64_t>(results.gt_index),
                               data<T>(results.loc_targets)};
  SSD_OPS_CPU(match_tiles, prior_tiles);
  SSD_OPS_CPU(match_arrays, data<T>(gt_boxes), objects, data<T>(gt_arrays));
  const bool claims = options.rule != ClaimRule::none;
  torch::stable::parallel_for(0, batch * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      SSD_OPS_CPU(match_chunk, task, i / chunks, i % chunks);
      if (claims && chunks == 1) SSD_OPS_CPU(match_claims, task, i);
    }
  });
  if (!claims || chunks == 1) return;
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SSD_OPS_CPU(match_claims, task, i);
  });
}

#ifdef SSD_OPS_WITH_CUDA
template <typename T>
void on_cuda(const Tensor& gt_boxes, const Tensor& gt_labels, const Tensor& offsets, const bool* ignore,
             const Tensor& priors, const Options& options, const Results& results) {
  constexpr ScalarType dtype = sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
  const CudaScope scope(priors);
  const int64_t batch = offsets.size(0) - 1, objects = gt_boxes.size(0), count = priors.size(0);
  const Tensor tile_boxes = empty(priors, {match_tiles_on_cuda(count), 4}, dtype);
  const Tensor scratch = empty(offsets, {objects + batch + 1}, ScalarType::Long);
  const CudaMatchTask<T> task{data<Box<T>>(gt_boxes),
                              data<int64_t>(gt_labels),
                              ignore,
                              data<int64_t>(offsets),
                              data<Box<T>>(priors),
                              objects,
                              batch,
                              count,
                              lowest_passing<T>(options),
                              options.rule,
                              four<T>(options.variances),
                              data<Box<T>>(tile_boxes),
                              data<long long>(scratch),
                              data<int64_t>(results.labels),
                              data<long long>(results.gt_index),
                              data<Box<T>>(results.loc_targets)};
  check_cuda(launch_match_priors(task, scope.stream()), "match_priors");
}
#endif

std::tuple<Tensor, Tensor, Tensor> match_priors(const Tensor& gt_boxes, const Tensor& gt_labels, const Tensor& offsets,
                                                const std::optional<Tensor>& ignore, const Tensor& priors,
                                                double iou_threshold, std::string rule, bool match_equal,
                                                std::vector<double> variances) {
  const Options options = check_inputs(gt_boxes, gt_labels, offsets, ignore, priors, iou_threshold, rule, match_equal,
                                       std::move(variances));
  const ScalarType dtype = compute_dtype({gt_boxes.scalar_type(), priors.scalar_type()});
  const int64_t batch = offsets.size(0) - 1, count = priors.size(0);
  const Results results{empty(priors, {batch, count}, ScalarType::Long),
                        empty(priors, {batch, count}, ScalarType::Long), empty(priors, {batch, count, 4}, dtype)};
  if (batch * count == 0) return {results.labels, results.gt_index, results.loc_targets};
  const Tensor boxes = dense(gt_boxes, dtype), labels = dense(gt_labels), bounds = dense(offsets);
  const Tensor prior_boxes = dense(priors, dtype);
  const Tensor flags = ignore ? dense(*ignore) : labels;  // keeps the memory until the kernels are done or queued
  const bool* skip = ignore ? data<bool>(flags) : nullptr;
  dispatch_compute(dtype, [&](auto type) {
    using T = decltype(type);
#ifdef SSD_OPS_WITH_CUDA
    if (uses_cuda_kernels(priors)) return on_cuda<T>(boxes, labels, bounds, skip, prior_boxes, options, results);
#endif
    on_cpu<T>(boxes, labels, bounds, skip, prior_boxes, options, results);
  });
  return {results.labels, results.gt_index, results.loc_targets};
}

}  // namespace

SSD_OPS_REGISTER(match_priors, match_priors)

}  // namespace ssd_ops
