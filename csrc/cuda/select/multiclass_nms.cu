// Plan: collect_scores_kernel reads every score once, in coalesced loads of 16 bytes if the scores of the images are
// aligned to 16 bytes, and a thread issues kScoreLoads loads before it uses the first. It appends the scores that reach
// the threshold to the candidates of their image; select_kernel (select_kernel.cuh) does the rest, one block per image.
#include "cuda/common/load.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/multiclass_nms.h"
#include "cuda/select/select_kernel.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kScoreLoads = 4;

// The scores of one load: 16 bytes, or one score.
template <typename In, bool wide>
struct alignas(wide ? 16 : sizeof(In)) Scores {
  static constexpr int kCount = wide ? 16 / sizeof(In) : 1;
  In values[kCount];
};
template <typename In, bool wide>
constexpr int kScoresPerBlock = kThreads * kScoreLoads * Scores<In, wide>::kCount;

// The first scores are loaded before the previous kernel has completed: that one only clears the lists, and it began
// after the scores were written.
template <bool wide, typename In>
__global__ void __launch_bounds__(kThreads)
    collect_scores_kernel(const In* scores, CandidateLists lists, unsigned num_boxes, unsigned num_classes,
                          compute_t<In> score_threshold) {
  using T = compute_t<In>;
  using Load = Scores<In, wide>;
  const int64_t scores_per_image = static_cast<int64_t>(num_boxes) * num_classes;
  const int64_t loads = scores_per_image / Load::kCount;
  for (int64_t local_image = blockIdx.x; local_image < lists.num_images; local_image += gridDim.x) {
    const auto* image_scores =
        reinterpret_cast<const Load*>(scores + (lists.first_image + local_image) * scores_per_image);
    for (int64_t first = static_cast<int64_t>(blockIdx.y) * (kThreads * kScoreLoads); first < loads;
         first += static_cast<int64_t>(gridDim.y) * (kThreads * kScoreLoads)) {
      const int left =
          static_cast<int>(loads - first < kThreads * kScoreLoads ? loads - first : kThreads * kScoreLoads);
      Load loaded[kScoreLoads];
#pragma unroll
      for (int k = 0; k < kScoreLoads; ++k) {
        const int i = k * kThreads + static_cast<int>(threadIdx.x);
        loaded[k] = image_scores[first + (i < left ? i : 0)];
      }
      wait_for_previous_kernel();
      const T threshold = current_threshold(lists, local_image, score_threshold);  // in flight with the scores
#pragma unroll
      for (int k = 0; k < kScoreLoads; ++k) {
        const int i = k * kThreads + static_cast<int>(threadIdx.x);
        bool any = false;
#pragma unroll
        for (int j = 0; j < Load::kCount; ++j) any = any || widen(loaded[k].values[j]) >= threshold;
        if (!__any_sync(kFullMask, any && i < left)) continue;  // most warps skip the division
#pragma unroll
        for (int j = 0; j < Load::kCount; ++j) {
          const T score = widen(loaded[k].values[j]);
          const auto index = (static_cast<unsigned>(first) + i) * Load::kCount + j;
          const unsigned box = index / num_classes, label = index % num_classes;
          append<1, T>(lists, local_image, {i < left && score >= threshold && label != 0}, {score},
                       {label * num_boxes + box});
        }
      }
    }
  }
}

template <bool wide, typename In, typename T>
cudaError_t launch_collect(const SelectParams<T>& params, const CandidateLists& lists, cudaStream_t stream) {
  const dim3 grid = collect_grid(lists, ceil_div(params.num_boxes * params.num_classes, kScoresPerBlock<In, wide>));
  return launch_dependent(collect_scores_kernel<wide, In>, grid, kThreads, 0, stream,
                          static_cast<const In*>(params.scores), lists, static_cast<unsigned>(params.num_boxes),
                          static_cast<unsigned>(params.num_classes), params.score_threshold);
}

// All candidates of an image, for refills in select_kernel.
template <typename In>
struct ScoreCandidates {
  const In* scores;  // of the image
  unsigned num_boxes, num_classes;
  compute_t<In> score_threshold;

  template <int kBlockThreads, typename F>
  __device__ void for_each(F&& f) const {
#pragma unroll 4
    for (uint64_t i = threadIdx.x; i < uint64_t(num_boxes) * num_classes; i += kBlockThreads) {
      const compute_t<In> score = widen(scores[i]);
      if (!(score >= score_threshold)) continue;
      const auto label = static_cast<unsigned>(i % num_classes), box = static_cast<unsigned>(i / num_classes);
      if (label == 0) continue;
      f(make_candidate(score, label * num_boxes + box));
    }
  }
};

template <typename In>
struct ScoreRefill {
  const In* scores;
  unsigned num_boxes, num_classes;
  compute_t<In> score_threshold;

  __device__ ScoreCandidates<In> candidates_of(int64_t image) const {
    return {scores + image * num_boxes * num_classes, num_boxes, num_classes, score_threshold};
  }
};

template <typename T>
CandidateLists candidate_lists_of(WorkspaceLayout& layout, const SelectParams<T>& params, int64_t num_images) {
  return pruned_candidate_lists(layout, num_images, params.num_classes, params.num_boxes * (params.num_classes - 1),
                                params.score_threshold);
}

}  // namespace

template <typename T>
size_t multiclass_nms_workspace_bytes(const SelectParams<T>& params, int64_t num_images) {
  WorkspaceLayout layout(nullptr);
  candidate_lists_of(layout, params, num_images);
  return layout.bytes();
}

template <typename T>
int launch_multiclass_nms(const SelectParams<T>& params, const BoxSource<T>& source, int64_t num_images,
                          void* workspace, CUstream_st* stream) {
  WorkspaceLayout layout(workspace);
  const CandidateLists lists = candidate_lists_of(layout, params, num_images);
  const auto boxes = static_cast<unsigned>(params.num_boxes), classes = static_cast<unsigned>(params.num_classes);
  return dispatch_dtype(params.dtype, [&](auto type) {
    using In = decltype(type);
    if constexpr (std::is_same_v<compute_t<In>, T>) {
      const auto* scores = static_cast<const In*>(params.scores);
      const bool wide = reinterpret_cast<uintptr_t>(scores) % 16 == 0 &&
                        params.num_boxes * params.num_classes % Scores<In, true>::kCount == 0;
      return static_cast<cudaError_t>(collect_and_select(
          lists, num_images, params.num_classes, stream,
          [&](const CandidateLists& images) {
            return wide ? launch_collect<true, In>(params, images, stream)
                        : launch_collect<false, In>(params, images, stream);
          },
          [&](const CandidateLists& images) {
            const ScoreRefill<In> refill{scores, boxes, classes, params.score_threshold};
            return launch_select<true>(images, source, params, refill, stream);
          }));
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

template size_t multiclass_nms_workspace_bytes(const SelectParams<float>&, int64_t);
template size_t multiclass_nms_workspace_bytes(const SelectParams<double>&, int64_t);
template int launch_multiclass_nms<float>(const SelectParams<float>&, const BoxSource<float>&, int64_t, void*,
                                          CUstream_st*);
template int launch_multiclass_nms<double>(const SelectParams<double>&, const BoxSource<double>&, int64_t, void*,
                                           CUstream_st*);

}  // namespace ssd_ops
