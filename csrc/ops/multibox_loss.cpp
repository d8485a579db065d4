// multibox_loss and its gradient: checks, allocation, and the way to the kernels.
#include "cpu/loss/multibox_loss.h"

#include <algorithm>
#include <atomic>

#include "cpu/loss/grad_multibox_loss.h"
#include "ops/cuda_route.h"
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
  const int64_t batch = loc.size(0), priors = loc.size(1);
  const std::string rows = "[" + std::to_string(batch) + ", " + std::to_string(priors);
  check_shape("logits", logits, rows + ", C]",
              logits.dim() == 3 && logits.size(0) == batch && logits.size(1) == priors);
  check_floating("logits", logits);
  if (logits.size(2) < 1) fail("logits must have at least 1 class, the background, got shape " + shape_of(logits));
  check_shape("loc_targets", loc_targets, rows + ", 4]", has_shape(loc_targets, {batch, priors, 4}));
  check_floating("loc_targets", loc_targets);
  check_shape("labels", labels, rows + "]", has_shape(labels, {batch, priors}));
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

// The tensors as kernels take them, alive as long as this is.
struct Inputs {
  Tensor loc, logits, loc_targets, labels;
  ScalarType dtype;  // of the arithmetic

  Inputs(const Tensor& loc_, const Tensor& logits_, const Tensor& loc_targets_, const Tensor& labels_)
      : dtype(compute_dtype({loc_.scalar_type(), logits_.scalar_type(), loc_targets_.scalar_type()})) {
    loc = dense(loc_);
    logits = dtype == ScalarType::Double ? dense(logits_, dtype) : dense(logits_);
    loc_targets = dense(loc_targets_);
    labels = dense(labels_);
  }

  LossTask task(const Tensor& lse, const Tensor& weight) const {
    return {dtype_of(logits),
            dtype_of(loc),
            dtype_of(loc_targets),
            loc.const_data_ptr(),
            logits.const_data_ptr(),
            loc_targets.const_data_ptr(),
            static_cast<const int64_t*>(labels.const_data_ptr()),
            logits.size(0),
            logits.size(1),
            logits.size(2),
            lse.data_ptr(),
            weight.data_ptr()};
  }
};

int64_t grain(int64_t items, int64_t work) { return std::max<int64_t>(1, items / std::max<int64_t>(1, work)); }

template <typename T>
void on_cpu(const LossTask& task, const Mining& mining, const Division& division, T* loc_loss, T* cls_loss) {
  chosen_isa();  // it may throw, which nothing in a parallel region may
  std::atomic<bool> in_range{true};
  torch::stable::parallel_for(0, task.images * task.priors, grain(32768, task.classes),
                              [&](int64_t begin, int64_t end) {
                                if (!SSD_OPS_CPU(loss_rows, task, begin, end)) in_range = false;
                              });
  if (!in_range) fail_label(task.labels, task.classes);
  std::vector<int64_t> positives(static_cast<size_t>(task.images));
  torch::stable::parallel_for(0, task.images, grain(65536, task.priors), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) positives[b] = SSD_OPS_CPU(loss_positives, task, b);
  });
  int64_t total = 0;
  for (const int64_t count : positives) total += count;
  const auto norm = [&](int64_t image) { return loss_norm<T>(division, positives[image], total); };
  std::vector<cpu::ImageSums> sums(static_cast<size_t>(task.images));
  torch::stable::parallel_for(0, task.images, grain(8192, task.priors), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) sums[b] = SSD_OPS_CPU(loss_image, task, mining, b, norm(b));
  });
  double loc = 0, cls = 0;
  for (int64_t b = 0; b < task.images; ++b) {
    loc += sums[b].loc / static_cast<double>(norm(b));
    cls += sums[b].cls / static_cast<double>(norm(b));
  }
  *loc_loss = static_cast<T>(loc);
  *cls_loss = static_cast<T>(cls);
}

Four multibox_loss(const Tensor& loc, const Tensor& logits, const Tensor& loc_targets, const Tensor& labels,
                   double neg_pos_ratio, std::string normalizer, int64_t min_negatives, std::string mining) {
  check_tensors(loc, logits, loc_targets, labels);
  check_not_negative("neg_pos_ratio", neg_pos_ratio);
  const auto divides =
      static_cast<Normalizer>(check_one_of("normalizer", normalizer, {"batch", "image", "batch_size"}));
  check_not_negative("min_negatives", static_cast<double>(min_negatives));
  const bool over_batch = check_one_of("mining", mining, {"image", "batch"}) == 1;
  if (over_batch && divides == Normalizer::image)
    fail("normalizer must be batch or batch_size where mining is batch, got image");
  const Inputs inputs(loc, logits, loc_targets, labels);
  const int64_t batch = loc.size(0), priors = loc.size(1);
  Tensor loc_loss = empty(loc, {}, inputs.dtype), cls_loss = empty(loc, {}, inputs.dtype);
  Tensor lse = empty(loc, {batch, priors}, inputs.dtype), weight = empty(loc, {batch, priors}, inputs.dtype);
  if (lse.numel() == 0) return {torch::stable::zero_(loc_loss), torch::stable::zero_(cls_loss), lse, weight};
  LossTask task = inputs.task(lse, weight);
  Mining rules{neg_pos_ratio, std::min(min_negatives, priors)};
  const Division division{divides, batch};
  if (over_batch) {  // the batch as one image
    rules.min_negatives *= batch;
    task.priors *= batch;
    task.images = 1;
  }
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(loc)) {
    const CudaScope scope(loc);
    const Tensor scratch = empty(loc, {loss_scratch_size(task)}, ScalarType::Long);
    check_cuda(launch_multibox_loss(task, rules, division, scratch.mutable_data_ptr(), loc_loss.mutable_data_ptr(),
                                    cls_loss.mutable_data_ptr(), scope.stream()),
               "multibox_loss");
    return {loc_loss, cls_loss, lse, weight};
  }
#endif
  dispatch_compute(inputs.dtype, [&](auto type) {
    using T = decltype(type);
    on_cpu(task, rules, division, static_cast<T*>(loc_loss.mutable_data_ptr()),
           static_cast<T*>(cls_loss.mutable_data_ptr()));
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
  const GradLossTask task{inputs.task(dense_lse, dense_weight), grad_loc_in.const_data_ptr(),
                          grad_cls_in.const_data_ptr(), grad_loc.mutable_data_ptr(), grad_logits.mutable_data_ptr()};
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(loc)) {
    const CudaScope scope(loc);
    check_cuda(launch_grad_multibox_loss(task, scope.stream()), "grad_multibox_loss");
    return {grad_loc, torch::stable::to(grad_logits, logits.scalar_type())};
  }
#endif
  chosen_isa();
  torch::stable::parallel_for(0, rows, grain(65536, task.forward.classes),
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(grad_loss_rows, task, begin, end); });
  if (inputs.dtype == ScalarType::Double && logits.scalar_type() != ScalarType::Double)
    grad_logits = torch::stable::to(grad_logits, logits.scalar_type());
  return {grad_loc, grad_logits};
}

}  // namespace

SSD_OPS_REGISTER(multibox_loss, multibox_loss)
SSD_OPS_REGISTER(grad_multibox_loss, grad_multibox_loss)

}  // namespace ssd_ops
