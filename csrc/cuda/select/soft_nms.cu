// Plan: one block per class of an image. Its active boxes (index and score) are in the workspace; if they are few, one
// warp goes on without the others, and without barriers of the block. In each round every thread decays the scores of
// its boxes by their overlap with the previously selected box and finds the best of them, and the block reduces these
// to the next selected box, until no box is active or D are selected. The selected boxes become candidates of the
// image, and select_kernel (select_kernel.cuh), without suppression, merges the classes.
#include <limits>

#include "cuda/common/load.cuh"
#include "cuda/common/math.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/select/select_kernel.cuh"
#include "cuda/select/soft_nms.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ DoubleCandidate shuffle_xor(const DoubleCandidate& c, int step) {
  return {ssd_ops::shuffle_xor(c.key, step), ssd_ops::shuffle_xor(c.index, step)};
}

// Reduces the candidates of kUsed threads, a warp or the block, to the first one, which all of them get.
template <int kUsed, typename C>
__device__ C first_of_all(C candidate) {
  __shared__ C first_by_warp[kThreads / kWarpSize];
  candidate = warp_reduce(candidate, [](const C& own, const C& other) { return precedes(other, own) ? other : own; });
  if constexpr (kUsed == kWarpSize) return candidate;
  __syncthreads();  // all threads have read the results of the previous call
  if (threadIdx.x % kWarpSize == 0) first_by_warp[threadIdx.x / kWarpSize] = candidate;
  __syncthreads();
  candidate = first_by_warp[0];
  for (int w = 1; w < kThreads / kWarpSize; ++w)
    if (precedes(first_by_warp[w], candidate)) candidate = first_by_warp[w];
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
  T* scores;              // [N]
  unsigned* box_indices;  // [N]: indices of the boxes

  __device__ Box<T> box(int64_t box_index) const {
    const int64_t index = image * params.num_boxes + box_index;
    return params.boxes[params.boxes_by_class ? index * params.num_classes + label : index];
  }

  // Lists the boxes that reach the score threshold; returns their number.
  template <typename In>
  __device__ int64_t collect() const {
    __shared__ unsigned count;
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
    const In* all_scores = static_cast<const In*>(params.scores);
    for (int64_t first = threadIdx.x; first < params.num_boxes; first += kThreads * kLoadsInFlight) {
      T loaded[kLoadsInFlight];
#pragma unroll
      for (int k = 0; k < kLoadsInFlight; ++k) {
        const int64_t i = first + k * kThreads;
        loaded[k] = i < params.num_boxes
                        ? widen(all_scores[(image * params.num_boxes + i) * params.num_classes + label])
                        : -T(INFINITY);
      }
#pragma unroll
      for (int k = 0; k < kLoadsInFlight; ++k) {
        if (!(loaded[k] >= params.score_threshold) || first + k * kThreads >= params.num_boxes) continue;
        const unsigned slot = atomicAdd(&count, 1u);
        scores[slot] = loaded[k];
        box_indices[slot] = static_cast<unsigned>(first + k * kThreads);
      }
    }
    __syncthreads();
    return count;
  }

  // Decays the scores of the thread's boxes by their overlap with the selected box (none if selected_index is ~0) and
  // returns the best of them; kUsed threads divide the boxes.
  template <int kUsed>
  __device__ candidate_t<T> decay_and_find_best(int64_t num_active, const Box<T>& selected,
                                                unsigned selected_index) const {
    using C = candidate_t<T>;
    const T selected_area = area(selected);
    C best = last_candidate<C>();
    for (int64_t i = threadIdx.x; i < num_active; i += kUsed) {
      T score = scores[i];
      if (!(score >= params.score_threshold)) continue;
      const unsigned box_index = box_indices[i];
      if (selected_index != ~0u) {
        const Box<T> other = box(box_index);
        score = box_index == selected_index
                    ? T(-INFINITY)
                    : decayed(score, suppression_iou(selected, other, selected_area, area(other)), params);
        scores[i] = score;
        if (!(score >= params.score_threshold)) continue;
      }
      const C candidate = make_candidate(score, box_index);
      if (precedes(candidate, best)) best = candidate;
    }
    return best;
  }
};

// Selects boxes of the class until none is active or D are selected, and appends them to the candidates of the image.
// The first kUsed threads of the block call it.
template <int kUsed, typename T>
__device__ void select_boxes(const ClassOfImage<T>& image_class, int64_t num_active, const CandidateLists& lists,
                             int64_t local_image) {
  using C = candidate_t<T>;
  const SoftNmsParams<T>& params = image_class.params;
  const int64_t image = image_class.image, label = image_class.label;
  Box<T> selected{};
  unsigned selected_index = ~0u;
  for (int64_t k = 0; k < params.class_capacity; ++k) {
    const C best =
        first_of_all<kUsed>(image_class.template decay_and_find_best<kUsed>(num_active, selected, selected_index));
    if (!precedes(best, last_candidate<C>())) break;
    selected_index = index_of(best);
    selected = image_class.box(selected_index);
    if (threadIdx.x != 0) continue;
    params.class_box_indices[(image * params.num_classes + label) * params.class_capacity + k] = selected_index;
    const unsigned offset = atomicAdd(&lists.counts[local_image], 1u);
    static_cast<C*>(lists.items)[local_image * lists.capacity + offset] =
        make_candidate(score_of(best), static_cast<unsigned>(label * params.class_capacity + k));
  }
}

template <typename In>
__global__ void __launch_bounds__(kThreads, 2)
    soft_nms_kernel(SoftNmsParams<compute_t<In>> params, CandidateLists lists, compute_t<In>* active_scores,
                    unsigned* active_box_indices) {
  using T = compute_t<In>;
  const int64_t foreground = params.num_classes - 1, local_image = blockIdx.x / foreground,
                label = blockIdx.x % foreground + 1;
  const int64_t image = lists.first_image + local_image, first = blockIdx.x * params.num_boxes;
  const ClassOfImage<T> image_class{params, image, label, active_scores + first, active_box_indices + first};
  const int64_t num_active = image_class.template collect<In>();
  wait_for_previous_kernel();  // it only clears the lists of candidates
  if (num_active > kWarpSize) {
    select_boxes<kThreads>(image_class, num_active, lists, local_image);
  } else if (threadIdx.x < kWarpSize) {
    select_boxes<kWarpSize>(image_class, num_active, lists, local_image);
  }
}

// The lists of what the classes select, and the active boxes of each class.
template <typename T>
struct SoftNmsWorkspace {
  CandidateLists lists;
  T* active_scores;              // [images, C - 1, N]
  unsigned* active_box_indices;  // [images, C - 1, N]
};

template <typename T>
SoftNmsWorkspace<T> soft_nms_workspace(const SoftNmsParams<T>& params, int64_t num_images, WorkspaceLayout& layout) {
  const int64_t foreground = params.num_classes - 1, num_active = foreground * params.num_boxes;
  SoftNmsWorkspace<T> result;
  result.lists = candidate_lists<T>(layout, num_images, params.num_classes, foreground * params.class_capacity,
                                    num_active * static_cast<int64_t>(sizeof(T) + sizeof(unsigned)));
  result.active_scores = layout.array<T>(result.lists.num_images * num_active);
  result.active_box_indices = layout.array<unsigned>(result.lists.num_images * num_active);
  return result;
}

}  // namespace

template <typename T>
size_t soft_nms_workspace_bytes(const SoftNmsParams<T>& params, int64_t num_images) {
  WorkspaceLayout layout(nullptr);
  soft_nms_workspace(params, num_images, layout);
  return layout.bytes();
}

template <typename T>
int launch_soft_nms(const SoftNmsParams<T>& params, int64_t num_images, void* workspace, CUstream_st* stream) {
  WorkspaceLayout layout(workspace);
  const SoftNmsWorkspace<T> arrays = soft_nms_workspace(params, num_images, layout);
  const BoxSource<T> source{.levels = one_level(params.num_boxes),
                            .boxes = {{params.boxes}},
                            .boxes_dtype = sizeof(T) == sizeof(double) ? Dtype::f64 : Dtype::f32,
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
  const auto collect = [&](const CandidateLists& images) {
    return dispatch_dtype(params.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch_dependent(soft_nms_kernel<In>, grid_blocks(images.num_images * (params.num_classes - 1), 1),
                                kThreads, 0, stream, params, images, arrays.active_scores, arrays.active_box_indices);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  };
  return collect_and_select(
      arrays.lists, num_images, params.num_classes, stream, collect,
      [&](const CandidateLists& images) { return launch_select<false>(images, source, select, NoRefill(), stream); });
}

template size_t soft_nms_workspace_bytes<float>(const SoftNmsParams<float>&, int64_t);
template size_t soft_nms_workspace_bytes<double>(const SoftNmsParams<double>&, int64_t);
template int launch_soft_nms<float>(const SoftNmsParams<float>&, int64_t, void*, CUstream_st*);
template int launch_soft_nms<double>(const SoftNmsParams<double>&, int64_t, void*, CUstream_st*);

}  // namespace ssd_ops
