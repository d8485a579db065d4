// Plan: a block is a class of an image. Its active boxes (index and score) are in the workspace. In each round every
// thread decays the scores of its boxes by their overlap with the last selected box and finds the best of them, and the
// block reduces these to the next selected box, until no box is active or D are selected. What is selected becomes a
// candidate of the image, and select_kernel (select.cu), without suppression, merges the classes.
#include <limits>

#include "cuda/common/load.cuh"
#include "cuda/common/math.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/soft_nms.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ FloatCandidate shuffle_xor(FloatCandidate c, int step) {
  return __shfl_xor_sync(kFullMask, c, step);
}
__device__ __forceinline__ DoubleCandidate shuffle_xor(const DoubleCandidate& c, int step) {
  return {__shfl_xor_sync(kFullMask, c.key, step), __shfl_xor_sync(kFullMask, c.index, step)};
}

// Reduces the candidates of all threads to the first one, which all of them get.
template <typename C>
__device__ C block_first(C candidate) {
  __shared__ C of_warps[kThreads / kWarpSize];
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const C other = shuffle_xor(candidate, step);
    if (precedes(other, candidate)) candidate = other;
  }
  __syncthreads();  // all threads have read the results of the last call
  if (threadIdx.x % kWarpSize == 0) of_warps[threadIdx.x / kWarpSize] = candidate;
  __syncthreads();
  candidate = of_warps[0];
  for (int w = 1; w < kThreads / kWarpSize; ++w)
    if (precedes(of_warps[w], candidate)) candidate = of_warps[w];
  return candidate;
}

template <typename T>
__device__ T decayed(T score, T iou, const SoftNmsParams<T>& params) {
  const T overlap = iou != iou ? T(0) : iou;
  if (params.gaussian) return score * exp_of(-(overlap * overlap) / params.sigma);
  return score * (overlap > params.iou_threshold ? T(1) - overlap : T(1));
}

// One class of one image, with its active boxes in the workspace.
template <typename T>
struct ClassOfImage {
  const SoftNmsParams<T>& params;
  int64_t image, label;
  T* scores;       // [N]
  unsigned* rows;  // [N]: indices of the boxes

  __device__ Box<T> box(int64_t row) const {
    const int64_t index = image * params.num_boxes + row;
    return params.boxes[params.boxes_by_class ? index * params.num_classes + label : index];
  }

  // Lists the boxes that reach the score threshold; returns their number.
  template <typename In>
  __device__ int64_t collect() const {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const In* all_scores = static_cast<const In*>(params.scores);
    for (int64_t row = threadIdx.x; row < params.num_boxes; row += kThreads) {
      const T score = widen(all_scores[(image * params.num_boxes + row) * params.num_classes + label]);
      if (!(score >= params.score_threshold)) continue;
      const unsigned slot = atomicAdd(&count, 1u);
      scores[slot] = score;
      rows[slot] = static_cast<unsigned>(row);
    }
    __syncthreads();
    return count;
  }

  // Decays the scores of the thread's boxes by their overlap with the selected box (none if selected_row is ~0) and
  // returns the best of them.
  __device__ candidate_t<T> decay_and_find_best(int64_t num_active, const Box<T>& selected,
                                                unsigned selected_row) const {
    using C = candidate_t<T>;
    const T selected_area = area(selected);
    C best = last_candidate<C>();
    for (int64_t i = threadIdx.x; i < num_active; i += kThreads) {
      T score = scores[i];
      if (!(score >= params.score_threshold)) continue;
      const unsigned row = rows[i];
      if (selected_row != ~0u) {
        const Box<T> other = box(row);
        score = row == selected_row
                    ? T(-INFINITY)
                    : decayed(score, suppression_iou(selected, other, selected_area, area(other)), params);
        scores[i] = score;
        if (!(score >= params.score_threshold)) continue;
      }
      const C candidate = make_candidate(score, row);
      if (precedes(candidate, best)) best = candidate;
    }
    return best;
  }
};

template <typename In>
__global__ void __launch_bounds__(kThreads, 2)
    soft_nms_kernel(SoftNmsParams<compute_t<In>> params, CandidateLists lists, compute_t<In>* active_scores,
                    unsigned* active_rows) {
  using T = compute_t<In>;
  using C = candidate_t<T>;
  wait_for_previous_kernel();
  const int64_t foreground = params.num_classes - 1, local_image = blockIdx.x / foreground,
                label = blockIdx.x % foreground + 1;
  const int64_t image = lists.first_image + local_image, first = blockIdx.x * params.num_boxes;
  const ClassOfImage<T> of_class{params, image, label, active_scores + first, active_rows + first};
  const int64_t num_active = of_class.template collect<In>();
  Box<T> selected{};
  unsigned selected_row = ~0u;
  for (int64_t k = 0; k < params.class_capacity; ++k) {
    const C best = block_first(of_class.decay_and_find_best(num_active, selected, selected_row));
    if (!precedes(best, last_candidate<C>())) break;
    selected_row = index_of(best);
    selected = of_class.box(selected_row);
    if (threadIdx.x != 0) continue;
    params.class_box_indices[(image * params.num_classes + label) * params.class_capacity + k] = selected_row;
    const unsigned offset = atomicAdd(&lists.counts[local_image], 1u);
    static_cast<C*>(lists.items)[local_image * lists.capacity + offset] =
        make_candidate(score_of(best), static_cast<unsigned>(label * params.class_capacity + k));
  }
}

// Bytes of the active boxes of one image.
template <typename T>
int64_t active_bytes(const SoftNmsParams<T>& params) {
  return round_up((params.num_classes - 1) * params.num_boxes * static_cast<int64_t>(sizeof(T) + sizeof(unsigned)), 16);
}

// The item array has the candidates that the classes select, followed by the active boxes, in units of items.
template <typename T>
CandidateLists lists_of(const SoftNmsParams<T>& params, int64_t num_images, void* workspace) {
  const int64_t selected = (params.num_classes - 1) * params.class_capacity, item = candidate_bytes<T>();
  return candidate_lists(workspace, num_images, params.num_classes, selected + ceil_div(active_bytes(params), item),
                         false, params.score_threshold);
}

}  // namespace

template <typename T>
size_t soft_nms_workspace_bytes(const SoftNmsParams<T>& params, int64_t num_images) {
  const CandidateLists lists = lists_of(params, num_images, nullptr);
  return candidate_workspace_bytes<T>(num_images, params.num_classes, lists.capacity);
}

template <typename T>
int launch_soft_nms(const SoftNmsParams<T>& params, int64_t num_images, void* workspace, CUstream_st* stream) {
  CandidateLists lists = lists_of(params, num_images, workspace);
  const int64_t foreground = params.num_classes - 1, step = lists.num_images;
  lists.capacity = foreground * params.class_capacity;
  auto* active_scores =
      reinterpret_cast<T*>(static_cast<char*>(workspace) + step * lists.capacity * candidate_bytes<T>());
  auto* active_rows = reinterpret_cast<unsigned*>(active_scores + step * foreground * params.num_boxes);
  const BoxSource<T> source{.boxes = params.boxes,
                            .boxes_by_class = params.boxes_by_class,
                            .priors = nullptr,
                            .variances = {},
                            .clip = false,
                            .class_box_indices = params.class_box_indices,
                            .class_capacity = params.class_capacity};
  const SelectParams<T> select{.scores = nullptr,
                               .dtype = params.dtype,
                               .num_boxes = params.num_boxes,
                               .num_classes = params.num_classes,
                               .score_threshold = params.score_threshold,
                               .candidates_per_class = std::numeric_limits<int64_t>::max(),
                               .thresholds = {},
                               .min_size = T(0),
                               .out = params.out};
  return collect_and_select(lists, num_images, source, select, false, stream, [&](const CandidateLists& group) {
    return dispatch_dtype(params.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch_dependent(soft_nms_kernel<In>, grid_blocks(group.num_images * foreground, 1), kThreads, 0, stream,
                                params, group, active_scores, active_rows);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  });
}

template size_t soft_nms_workspace_bytes<float>(const SoftNmsParams<float>&, int64_t);
template size_t soft_nms_workspace_bytes<double>(const SoftNmsParams<double>&, int64_t);
template int launch_soft_nms<float>(const SoftNmsParams<float>&, int64_t, void*, CUstream_st*);
template int launch_soft_nms<double>(const SoftNmsParams<double>&, int64_t, void*, CUstream_st*);

}  // namespace ssd_ops
