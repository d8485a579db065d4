// multibox_loss and its gradient: validation, allocation, and dispatch to the kernels.
#include "cpu/loss/multibox_loss.h"

#include <algorithm>
#include <atomic>

#include "cpu/loss/grad_multibox_loss.h"
#include "ops/glue.h"
#include "ops/huge_pages.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/loss/multibox_loss.h"
#endif

namespace ssd_ops {
namespace {

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;

void check_tensors(const Tensor& loc, const Tensor& logits, const Tensor& loc_targets, const Tensor& labels) {
  check_boxes("loc", loc, "[B, P, 4]", 3);
  const int64_t num_images = loc.size(0), num_priors = loc.size(1);
  const std::string rows = "[" + std::to_string(num_images) + ", " + std::to_string(num_priors);
  check_shape("logits", logits, rows + ", C]",
              logits.dim() == 3 && logits.size(0) == num_images && logits.size(1) == num_priors);
  check_floating("logits", logits);
  if (logits.size(2) < 1) fail("logits must have at least 1 class, the background, got shape " + shape_of(logits));
  check_shape("loc_targets", loc_targets, rows + ", 4]", has_shape(loc_targets, {num_images, num_priors, 4}));
  check_floating("loc_targets", loc_targets);
  check_shape("labels", labels, rows + "]", has_shape(labels, {num_images, num_priors}));
  check_dtype("labels", labels, ScalarType::Long);
  check_same_device("logits", logits, "loc", loc);
  check_same_device("loc_targets", loc_targets, "loc", loc);
  check_same_device("labels", labels, "loc", loc);
}

[[noreturn]] void fail_label(const int64_t* labels, int64_t classes) {
  int64_t i = 0;
  while (labels[i] >= -1 && labels[i] < classes) ++i;
  fail("labels must be between -1 and " + std::to_string(classes - 1) + ", got " + std::to_string(labels[i]) +
       " at index " + std::to_string(i));
}

// The tensors as kernels take them.
struct Inputs {
  Tensor loc, logits, loc_targets, labels;
  ScalarType dtype;  // of the arithmetic

  Inputs(const Tensor& loc_, const Tensor& logits_, const Tensor& loc_targets_, const Tensor& labels_)
      : dtype(compute_dtype({loc_.scalar_type(), logits_.scalar_type(), loc_targets_.scalar_type()})) {
    loc = dense(loc_);
    logits = dense_for(logits_, dtype);
    loc_targets = dense(loc_targets_);
    labels = dense(labels_);
  }

  LossParams params(const Tensor& lse, const Tensor& weight) const {
    return {.logits_type = dtype_of(logits),
            .loc_type = dtype_of(loc),
            .target_type = dtype_of(loc_targets),
            .loc = loc.const_data_ptr(),
            .logits = logits.const_data_ptr(),
            .loc_targets = loc_targets.const_data_ptr(),
            .labels = const_data<int64_t>(labels),
            .num_images = logits.size(0),
            .num_priors = logits.size(1),
            .num_classes = logits.size(2),
            .lse = lse.data_ptr(),
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

Four multibox_loss(const Tensor& loc, const Tensor& logits, const Tensor& loc_targets, const Tensor& labels,
                   double neg_pos_ratio, std::string normalizer, int64_t min_negatives, std::string mining) {
  check_tensors(loc, logits, loc_targets, labels);
  check_not_negative("neg_pos_ratio", neg_pos_ratio);
  const auto chosen = static_cast<Normalizer>(check_one_of("normalizer", normalizer, {"batch", "image", "batch_size"}));
  check_not_negative("min_negatives", static_cast<double>(min_negatives));
  const bool over_batch = check_one_of("mining", mining, {"image", "batch"}) == 1;
  if (over_batch && chosen == Normalizer::image)
    fail("normalizer must be batch or batch_size where mining is batch, got image");
  const Inputs inputs(loc, logits, loc_targets, labels);
  const int64_t num_images = loc.size(0), num_priors = loc.size(1);
  Tensor loc_loss = empty(loc, {}, inputs.dtype), cls_loss = empty(loc, {}, inputs.dtype);
  Tensor lse = empty(loc, {num_images, num_priors}, inputs.dtype),
         weight = empty(loc, {num_images, num_priors}, inputs.dtype);
  if (lse.numel() == 0) return {torch::stable::zero_(loc_loss), torch::stable::zero_(cls_loss), lse, weight};
  LossParams params = inputs.params(lse, weight);
  Mining rules{neg_pos_ratio, std::min(min_negatives, num_priors)};
  const Normalization normalization{chosen, num_images};
  if (over_batch) {  // mines the batch as one image
    rules.min_negatives *= num_images;
    params.num_priors *= num_images;
    params.num_images = 1;
  }
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(loc)) {
    const CudaScope scope(loc);
    const Tensor workspace = empty(loc, {static_cast<int64_t>(loss_workspace_bytes(params))}, ScalarType::Byte);
    check_cuda(launch_multibox_loss(params, rules, normalization, workspace.mutable_data_ptr(),
                                    loc_loss.mutable_data_ptr(), cls_loss.mutable_data_ptr(), scope.stream()),
               "multibox_loss");
    return {loc_loss, cls_loss, lse, weight};
  }
#endif
  dispatch_compute(inputs.dtype, [&](auto type) {
    using T = decltype(type);
    on_cpu(params, rules, normalization, data<T>(loc_loss), data<T>(cls_loss));
  });
  return {loc_loss, cls_loss, lse, weight};
}

std::tuple<Tensor, Tensor> grad_multibox_loss(const Tensor& grad_loc_loss, const Tensor& grad_cls_loss,
                                              const Tensor& loc, const Tensor& logits, const Tensor& loc_targets,
                                              const Tensor& labels, const Tensor& lse, const Tensor& weight) {
  check_tensors(loc, logits, loc_targets, labels);
  const Inputs inputs(loc, logits, loc_targets, labels);
  const int64_t rows = loc.size(0) * loc.size(1);
  for (const Tensor* t : {&lse, &weight})
    check_shape(t == &lse ? "lse" : "weight", *t, bracketed(labels.sizes()), has_shape(*t, {loc.size(0), loc.size(1)}));
  check_shape("grad_loc_loss", grad_loc_loss, "[]", grad_loc_loss.dim() == 0);
  check_shape("grad_cls_loss", grad_cls_loss, "[]", grad_cls_loss.dim() == 0);
  const Tensor dense_lse = dense(lse, inputs.dtype), dense_weight = dense(weight, inputs.dtype);
  const Tensor grad_loc_in = dense(grad_loc_loss, inputs.dtype), grad_cls_in = dense(grad_cls_loss, inputs.dtype);
  Tensor grad_loc = empty(loc, {loc.size(0), loc.size(1), 4}, loc.scalar_type());
  Tensor grad_logits = empty(loc, {logits.size(0), logits.size(1), logits.size(2)}, inputs.logits.scalar_type());
  prefer_huge_pages(grad_logits);
  const GradLossParams params{.forward = inputs.params(dense_lse, dense_weight),
                              .grad_loc_loss = grad_loc_in.const_data_ptr(),
                              .grad_cls_loss = grad_cls_in.const_data_ptr(),
                              .grad_loc = grad_loc.mutable_data_ptr(),
                              .grad_logits = grad_logits.mutable_data_ptr()};
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(loc)) {
    const CudaScope scope(loc);
    check_cuda(launch_grad_multibox_loss(params, scope.stream()), "grad_multibox_loss");
    return {grad_loc, torch::stable::to(grad_logits, logits.scalar_type())};
  }
#endif
  chosen_isa();
  torch::stable::parallel_for(0, rows, grain(65536, params.forward.num_classes),
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(grad_loss_rows, params, begin, end); });
  if (inputs.dtype == ScalarType::Double && logits.scalar_type() != ScalarType::Double)
    grad_logits = torch::stable::to(grad_logits, logits.scalar_type());
  return {grad_loc, grad_logits};
}

}  // namespace

SSD_OPS_REGISTER(multibox_loss, multibox_loss)
SSD_OPS_REGISTER(grad_multibox_loss, grad_multibox_loss)

}  // namespace ssd_ops
