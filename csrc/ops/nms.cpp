// nms and batched_nms: validation, allocation, and dispatch to the kernels.
#include "cpu/nms/nms.h"

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/nms/nms.h"
#endif

namespace ssd_ops {
namespace {

constexpr int64_t kMaxBoxes = int64_t(1) << 31;  // ranks are 32 bits wide

void check_inputs(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_boxes("boxes", boxes, "[N, 4]", 2);
  const int64_t n = boxes.size(0);
  check_shape("scores", scores, [&] { return "[" + std::to_string(n) + "]"; }, has_shape(scores, {n}));
  check_floating("scores", scores);
  check_same_device("scores", scores, "boxes", boxes);
  check_number("iou_threshold", iou_threshold);
  if (n >= kMaxBoxes) fail("boxes must have fewer than 2147483648 rows, got " + std::to_string(n));
}

// Fills `kept` with the indices of the kept boxes of all classes by rank, and returns their number. The groups of equal
// class are distributed over the threads by their number of boxes.
template <typename T>
int64_t suppress_by_class(const cpu::NmsParams<T>& params, int64_t n, const int64_t* classes, uint32_t* kept) {
  const std::unique_ptr<uint32_t[]> members(new uint32_t[n]), starts(new uint32_t[n + 1]);
  const std::unique_ptr<uint8_t[]> keep(new uint8_t[n]);
  const int64_t groups = SSD_OPS_CPU(group_by_class, classes, params.order, n, members.get(), starts.get());
  torch::stable::parallel_for(0, n, 1024, [&](int64_t begin, int64_t end) {
    const uint32_t* first = std::lower_bound(starts.get(), starts.get() + groups, begin);
    for (; first != starts.get() + groups && *first < end; ++first)
      SSD_OPS_CPU(suppress_group, params, members.get(), first[0], first[1], keep.get());
  });
  int64_t count = 0;
  for (int64_t r = 0; r < n; ++r) {
    kept[count] = params.order[r];
    count += keep[r];
  }
  return count;
}

Tensor on_cpu(const Tensor& boxes, const Tensor& scores, const Tensor* classes, double iou_threshold) {
  const int64_t n = boxes.size(0);
  if (n == 0) return empty(boxes, {0}, ScalarType::Long);
  const std::unique_ptr<uint32_t[]> order(new uint32_t[n]), kept(new uint32_t[n]);
  dispatch_compute(compute_dtype({scores.scalar_type()}), [&](auto type) {
    using T = decltype(type);
    const Tensor dense_scores = dense(scores, dtype_for<T>());
    SSD_OPS_CPU(order_by_score, const_data<T>(dense_scores), n, order.get());
  });
  const int64_t count = dispatch_compute(compute_dtype({boxes.scalar_type()}), [&](auto type) {
    using T = decltype(type);
    const Tensor dense_boxes = dense(boxes, dtype_for<T>());
    const cpu::NmsParams<T> params{.boxes = const_data<Box<T>>(dense_boxes),
                                   .order = order.get(),
                                   .thresholds = suppression_thresholds<T>(iou_threshold)};
    return classes ? suppress_by_class(params, n, dense(*classes).template const_data_ptr<int64_t>(), kept.get())
                   : SSD_OPS_CPU(suppress_all, params, n, kept.get());
  });
  Tensor indices = empty(boxes, {count}, ScalarType::Long);
  std::copy_n(kept.get(), count, indices.mutable_data_ptr<int64_t>());
  return indices;
}

#ifdef SSD_OPS_WITH_CUDA
Tensor descending_order(const Tensor& scores) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(scores), from(std::optional<bool>(true)), from(int64_t{0}), from(true)};
  SSD_OPS_TORCH_CALL(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  const Tensor values = to<Tensor>(stack[0]);
  return to<Tensor>(stack[1]);
}

Tensor on_cuda(const Tensor& boxes, const Tensor& scores, const Tensor* classes, double iou_threshold) {
  const int64_t n = boxes.size(0);
  if (n == 0) return empty(boxes, {0}, ScalarType::Long);
  const CudaScope scope(boxes);
  const bool ranked = n <= max_ranked();  // torch's sort takes several launches
  const Tensor dense_boxes = dense(boxes), dense_scores = ranked ? dense(scores) : scores;
  const Tensor dense_classes = classes ? dense(*classes) : dense_scores;
  // One allocation for everything but the result: the workspace and the order.
  const auto words = static_cast<int64_t>(nms_workspace_bytes(n, classes != nullptr) / sizeof(int64_t));
  const Tensor workspace = empty(boxes, {words + (ranked ? n : 0)}, ScalarType::Long);
  const Tensor sorted = ranked ? workspace : descending_order(scores);
  int64_t* order = data<int64_t>(sorted) + (ranked ? words : 0);
  const Tensor keep = empty(boxes, {n}, ScalarType::Long);
  const NmsInputs in{.boxes = dense_boxes.const_data_ptr(),
                     .box_type = dtype_of(boxes),
                     .scores = ranked ? dense_scores.const_data_ptr() : nullptr,
                     .score_type = dtype_of(scores),
                     .classes = classes ? const_data<int64_t>(dense_classes) : nullptr,
                     .num_boxes = n};
  auto* progress = static_cast<NmsProgress*>(mapped_memory());
  static_assert(sizeof(*progress) <= kMappedBytes);
  const int64_t all = num_nms_tiles(n);
  for (int64_t first = 0, tiles = std::min(all, nms_tiles_per_check(n)); tiles > 0;) {
    check_cuda(launch_nms(in, iou_threshold, workspace.mutable_data_ptr(), order, first, tiles, data<int64_t>(keep),
                          progress, scope.stream()),
               "nms");
    synchronize(scope.stream(), "nms");
    first += tiles;
    tiles = progress->next_tile_size == 0 ? 0 : std::min(all - first, first);  // doubles the number of tiles launched
  }
  const Tensor kept = first_elements(keep, progress->num_kept);
  constexpr int64_t kMaxViewed = 10240;  // up to this many boxes the result is a view of an array for all boxes, 80 KB
  return n <= kMaxViewed ? kept : torch::stable::clone(kept);
}
#endif

Tensor dispatch(const Tensor& boxes, const Tensor& scores, const Tensor* classes, double iou_threshold) {
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(boxes)) return on_cuda(boxes, scores, classes, iou_threshold);
#endif
  return on_cpu(boxes, scores, classes, iou_threshold);
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold, bool suppress_equal) {
  check_inputs(boxes, scores, iou_threshold);
  return dispatch(boxes, scores, nullptr, suppress_threshold(iou_threshold, suppress_equal));
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs, double iou_threshold,
                   bool suppress_equal) {
  check_inputs(boxes, scores, iou_threshold);
  const double threshold = suppress_threshold(iou_threshold, suppress_equal);
  const int64_t n = boxes.size(0);
  check_shape("idxs", idxs, [&] { return "[" + std::to_string(n) + "]"; }, has_shape(idxs, {n}));
  check_dtype("idxs", idxs, ScalarType::Long);
  check_same_device("idxs", idxs, "boxes", boxes);
  return dispatch(boxes, scores, &idxs, threshold);
}

}  // namespace

SSD_OPS_REGISTER(nms, nms)
SSD_OPS_REGISTER(batched_nms, batched_nms)

}  // namespace ssd_ops
