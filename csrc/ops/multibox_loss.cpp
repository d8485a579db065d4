// multibox_loss and its gradient: validation, allocation, and dispatch to the kernels.
#include "cpu/loss/multibox_loss.h"

#include <algorithm>
#include <atomic>

#include "cpu/loss/grad_multibox_loss.h"
#include "ops/detector_outputs.h"
#include "ops/huge_pages.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/loss/multibox_loss.h"
#endif

namespace ssd_ops {
namespace {

using LossTensors = std::tuple<Tensor, Tensor, Tensor>;  // loc_loss, cls_loss, weight

void check_targets(const DetectorOutputs& outputs, const Tensor& loc_targets, const Tensor& labels) {
  const int64_t num_images = outputs.num_images, num_priors = outputs.num_priors();
  const auto rows = [&] { return "[" + std::to_string(num_images) + ", " + std::to_string(num_priors); };
  check_shape(
      "loc_targets", loc_targets, [&] { return rows() + ", 4]"; }, has_shape(loc_targets, {num_images, num_priors, 4}));
  check_floating("loc_targets", loc_targets);
  check_shape("labels", labels, [&] { return rows() + "]"; }, has_shape(labels, {num_images, num_priors}));
  check_dtype("labels", labels, ScalarType::Long);
  check_same_device("loc_targets", loc_targets, "loc", outputs.loc[0]);
  check_same_device("labels", labels, "loc", outputs.loc[0]);
}

[[noreturn]] void fail_label(const int64_t* labels, int64_t classes) {
  int64_t i = 0;
  while (labels[i] >= -1 && labels[i] < classes) ++i;
  fail("labels must be between -1 and " + std::to_string(classes - 1) + ", got " + std::to_string(labels[i]) +
       " at index " + std::to_string(i));
}

// The tensors as kernels take them.
struct Inputs {
  const DetectorOutputs& outputs;
  ScalarType dtype;  // of the arithmetic
  std::vector<Tensor> loc, logits;
  Tensor loc_targets, labels;

  Inputs(const DetectorOutputs& all, const Tensor& targets, const Tensor& classes)
      : outputs(all),
        dtype(compute_dtype({all.loc_type(), all.logits_type(), targets.scalar_type()})),
        loc(dense_rows(all.loc, all.loc_type())),
        logits(dense_rows(all.logits, load_dtype(all.logits_type(), dtype))),
        loc_targets(dense(targets)),
        labels(dense(classes)) {}

  LossParams params(const Tensor& weight) const {
    return {.logits_type = dtype_of(logits[0]),
            .loc_type = dtype_of(loc[0]),
            .target_type = dtype_of(loc_targets),
            .levels = outputs.levels,
            .loc = const_rows<void>(loc),
            .logits = const_rows<void>(logits),
            .loc_targets = loc_targets.const_data_ptr(),
            .labels = const_data<int64_t>(labels),
            .batch_size = outputs.num_images,
            .num_classes = outputs.num_classes,
            .num_images = outputs.num_images,
            .num_priors = outputs.num_priors(),
            .weight = weight.data_ptr()};
  }
};

int64_t grain(int64_t items, int64_t work) { return std::max<int64_t>(1, items / std::max<int64_t>(1, work)); }

template <typename T>
void on_cpu(const LossParams& params, const Mining& mining, const Normalization& normalization, T* loc_loss,
            T* cls_loss) {
  chosen_isa();  // may throw, which is not allowed within a parallel region
  std::atomic<bool> in_range{true};
  torch::stable::parallel_for(0, params.num_images * params.num_priors, grain(32768, params.num_classes),
                              [&](int64_t begin, int64_t end) {
                                if (!SSD_OPS_CPU(loss_rows, params, begin, end)) in_range = false;
                              });
  if (!in_range) fail_label(params.labels, params.num_classes);
  std::vector<int64_t> positives(static_cast<size_t>(params.num_images));
  torch::stable::parallel_for(0, params.num_images, grain(65536, params.num_priors), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) positives[b] = SSD_OPS_CPU(loss_positives, params, b);
  });
  int64_t total = 0;
  for (const int64_t count : positives) total += count;
  const auto divisor = [&](int64_t image) { return loss_divisor<T>(normalization, positives[image], total); };
  std::vector<cpu::ImageSums> sums(static_cast<size_t>(params.num_images));
  torch::stable::parallel_for(0, params.num_images, grain(8192, params.num_priors), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) sums[b] = SSD_OPS_CPU(loss_image, params, mining, b, divisor(b));
  });
  double loc = 0, cls = 0;
  for (int64_t b = 0; b < params.num_images; ++b) {
    loc += sums[b].loc / static_cast<double>(divisor(b));
    cls += sums[b].cls / static_cast<double>(divisor(b));
  }
  *loc_loss = static_cast<T>(loc);
  *cls_loss = static_cast<T>(cls);
}

struct LossOptions {
  Mining mining;
  Normalizer normalizer;
  bool over_batch;  // mines the batch as one image
};

LossOptions loss_options(double neg_pos_ratio, const std::string& normalizer, int64_t min_negatives,
                         const std::string& mining) {
  check_not_negative("neg_pos_ratio", neg_pos_ratio);
  const auto chosen = static_cast<Normalizer>(check_one_of("normalizer", normalizer, {"batch", "image", "batch_size"}));
  check_not_negative("min_negatives", static_cast<double>(min_negatives));
  const bool over_batch = check_one_of("mining", mining, {"image", "batch"}) == 1;
  if (over_batch && chosen == Normalizer::image)
    fail("normalizer must be batch or batch_size where mining is batch, got image");
  return {{neg_pos_ratio, min_negatives}, chosen, over_batch};
}

LossTensors losses_of(const DetectorOutputs& outputs, const Tensor& loc_targets, const Tensor& labels,
                      const LossOptions& options) {
  const Inputs inputs(outputs, loc_targets, labels);
  const Tensor& like = outputs.loc[0];
  const int64_t num_images = outputs.num_images, num_priors = outputs.num_priors();
  Tensor loc_loss = empty(like, {}, inputs.dtype), cls_loss = empty(like, {}, inputs.dtype);
  Tensor weight = empty(like, {num_images, num_priors}, inputs.dtype);
  if (weight.numel() == 0) return {torch::stable::zero_(loc_loss), torch::stable::zero_(cls_loss), weight};
  LossParams params = inputs.params(weight);
  Mining rules{options.mining.neg_pos_ratio, std::min(options.mining.min_negatives, num_priors)};
  const Normalization normalization{options.normalizer, num_images};
  if (options.over_batch) {
    rules.min_negatives *= num_images;
    params.num_priors *= num_images;
    params.num_images = 1;
  }
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(like)) {
    const CudaScope scope(like);
    const Tensor workspace = empty(like, {static_cast<int64_t>(loss_workspace_bytes(params))}, ScalarType::Byte);
    check_cuda(launch_multibox_loss(params, rules, normalization, workspace.mutable_data_ptr(),
                                    loc_loss.mutable_data_ptr(), cls_loss.mutable_data_ptr(), scope.stream()),
               "multibox_loss");
    return {loc_loss, cls_loss, weight};
  }
#endif
  dispatch_compute(inputs.dtype, [&](auto type) {
    using T = decltype(type);
    on_cpu(params, rules, normalization, data<T>(loc_loss), data<T>(cls_loss));
  });
  return {loc_loss, cls_loss, weight};
}

using Gradients = std::vector<Tensor>;

// Uninitialized gradients with the rows of `dense`.
Gradients new_gradients(const std::vector<Tensor>& dense) {
  Gradients result;
  for (const Tensor& t : dense) {
    result.push_back(empty(t, t.sizes(), t.strides(), t.scalar_type()));
    prefer_huge_pages(result.back());
  }
  return result;
}

std::tuple<Gradients, Gradients> gradients_of(const DetectorOutputs& outputs, const Tensor& grad_loc_loss,
                                              const Tensor& grad_cls_loss, const Tensor& loc_targets,
                                              const Tensor& labels, const Tensor& weight) {
  check_targets(outputs, loc_targets, labels);
  const Inputs inputs(outputs, loc_targets, labels);
  const int64_t num_images = outputs.num_images, num_priors = outputs.num_priors();
  check_shape("weight", weight, [&] { return bracketed(labels.sizes()); }, has_shape(weight, {num_images, num_priors}));
  check_shape("grad_loc_loss", grad_loc_loss, "[]", grad_loc_loss.dim() == 0);
  check_shape("grad_cls_loss", grad_cls_loss, "[]", grad_cls_loss.dim() == 0);
  const Tensor dense_weight = dense(weight, inputs.dtype);
  const Tensor grad_loc_in = dense(grad_loc_loss, inputs.dtype), grad_cls_in = dense(grad_cls_loss, inputs.dtype);
  Gradients loc = new_gradients(inputs.loc), logits = new_gradients(inputs.logits);
  const GradLossParams params{.forward = inputs.params(dense_weight),
                              .grad_loc_loss = grad_loc_in.const_data_ptr(),
                              .grad_cls_loss = grad_cls_in.const_data_ptr(),
                              .loc = mutable_rows(loc),
                              .logits = mutable_rows(logits)};
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(outputs.loc[0])) {
    const CudaScope scope(outputs.loc[0]);
    check_cuda(launch_grad_multibox_loss(params, scope.stream()), "grad_multibox_loss");
  } else
#endif
  {
    chosen_isa();
    torch::stable::parallel_for(0, num_images * num_priors, grain(65536, outputs.num_classes),
                                [&](int64_t begin, int64_t end) { SSD_OPS_CPU(grad_loss_rows, params, begin, end); });
  }
  for (Tensor& grad : logits) grad = as_dtype(grad, outputs.logits_type());
  return {std::move(loc), std::move(logits)};
}

// Outputs is Tensor, or std::vector<Tensor> with a tensor for each level.
template <typename Outputs>
LossTensors multibox_loss(const Outputs& loc, const Outputs& logits, const Tensor& loc_targets, const Tensor& labels,
                          double neg_pos_ratio, std::string normalizer, int64_t min_negatives, std::string mining) {
  const DetectorOutputs outputs = detector_outputs(loc, logits);
  check_targets(outputs, loc_targets, labels);
  return losses_of(outputs, loc_targets, labels, loss_options(neg_pos_ratio, normalizer, min_negatives, mining));
}

std::tuple<Tensor, Tensor> grad_multibox_loss(const Tensor& grad_loc_loss, const Tensor& grad_cls_loss,
                                              const Tensor& loc, const Tensor& logits, const Tensor& loc_targets,
                                              const Tensor& labels, const Tensor& weight) {
  auto [grad_loc, grad_logits] =
      gradients_of(detector_outputs(loc, logits), grad_loc_loss, grad_cls_loss, loc_targets, labels, weight);
  return {grad_loc[0], grad_logits[0]};
}

std::tuple<Gradients, Gradients> grad_multibox_loss_levels(const Tensor& grad_loc_loss, const Tensor& grad_cls_loss,
                                                           const std::vector<Tensor>& loc,
                                                           const std::vector<Tensor>& logits, const Tensor& loc_targets,
                                                           const Tensor& labels, const Tensor& weight) {
  return gradients_of(detector_outputs(loc, logits), grad_loc_loss, grad_cls_loss, loc_targets, labels, weight);
}

}  // namespace

SSD_OPS_REGISTER(multibox_loss, multibox_loss<Tensor>)
SSD_OPS_REGISTER(multibox_loss_levels, multibox_loss<std::vector<Tensor>>)
SSD_OPS_REGISTER(grad_multibox_loss, grad_multibox_loss)
SSD_OPS_REGISTER(grad_multibox_loss_levels, grad_multibox_loss_levels)

}  // namespace ssd_ops
