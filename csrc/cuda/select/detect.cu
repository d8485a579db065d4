// Plan: in collect_logits_kernel a group of lanes processes kPriorsPerGroup priors, each lane every kGroup-th class,
// and a warp issues the loads of all of their logits before it uses the first (logit_group.cuh). A prior is skipped if
// no class exceeds the background logit by the margin that the score threshold requires. For the others each group
// computes the softmax of one prior at a time, and the warp appends the candidates to the list of the image. Rows of
// many classes do not fit into registers: there a warp processes one prior at a time, and reads its logits again for
// each step (logit_row.cuh). select_kernel (select_kernel.cuh) does the rest, one block per image, and decodes only the
// boxes that it visits.
#include "cuda/common/lane_group.cuh"
#include "cuda/select/detect.h"
#include "cuda/select/logit_group.cuh"
#include "cuda/select/select_kernel.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
// Resident blocks per multiprocessor for rows of few classes: more where the compiler gets by with 64 registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksPerSm = 3;
#else
constexpr int kBlocksPerSm = 4;
#endif

// The logits of all priors of the batch.
struct LevelLogits {
  Levels levels;
  LevelPointers<const void> logits;
};

// A group of kGroup lanes has the logits of a prior, kPerLane classes per lane; kPerLane = 0: any number of classes.
// The first logits are loaded before the previous kernel has completed: that one only clears the lists, and it began
// after the logits were written.
template <int kGroup, int kPerLane, typename In, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) && kPerLane <= 6 ? kBlocksPerSm : 2)
    collect_logits_kernel(LevelLogits outputs, CandidateLists lists, int num_classes, Filter<T> filter) {
  constexpr int kTile = kPriorsPerWarp<kGroup>;
  const int64_t num_tiles = count_level_tiles(outputs.levels, 1, kTile);
  const auto num_priors = static_cast<unsigned>(outputs.levels.num_priors());
  for (int64_t local_image = blockIdx.x; local_image < lists.num_images; local_image += gridDim.x) {
    int64_t index = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / kWarpSize;
    for (; index < num_tiles; index += static_cast<int64_t>(gridDim.y) * kWarps) {
      const LevelTile tile = level_tile(outputs.levels, 1, index, kTile);
      const int64_t image = lists.first_image + local_image;
      const In* rows = static_cast<const In*>(outputs.logits.of[tile.level]) +
                       (image * outputs.levels.num_priors(tile.level) + tile.first) * num_classes;
      const int count = static_cast<int>(tile.left < kTile ? tile.left : kTile);
      const auto first = static_cast<unsigned>(outputs.levels.first_prior[tile.level] + tile.first);
      if constexpr (kPerLane > 0) {
        const WarpPriors<kGroup, kPerLane, In> priors{rows, count, num_classes};
        const unsigned may_have_candidate = priors.may_have_candidate(filter);
        wait_for_previous_kernel();
        priors.append_candidates(may_have_candidate, filter, lists, local_image, num_priors, first);
      } else {
        wait_for_previous_kernel();
        for (int r = 0; r < count; ++r) {
          const LogitRow<In> row{rows + static_cast<int64_t>(r) * num_classes, num_classes, kWarpSize};
          row.for_each_score(filter, [&](bool appends, T score, int label) {
            appends = appends && score >= current_threshold(lists, local_image, filter.score_threshold);
            const unsigned prior = first + static_cast<unsigned>(r);
            append<1, T>(lists, local_image, {appends}, {score}, {static_cast<unsigned>(label) * num_priors + prior});
          });
        }
      }
    }
  }
}

template <int kGroup, int kPerLane, typename In, typename T>
cudaError_t launch_collect(const LevelLogits& outputs, int64_t num_classes, const CandidateLists& lists,
                           const Filter<T>& filter, cudaStream_t stream) {
  const dim3 grid = collect_grid(lists, ceil_div(count_level_tiles(outputs.levels, 1, kPriorsPerWarp<kGroup>), kWarps));
  return launch_dependent(collect_logits_kernel<kGroup, kPerLane, In, T>, grid, kThreads, 0, stream, outputs, lists,
                          static_cast<int>(num_classes), filter);
}

// All candidates of an image, for refills in select_kernel; a warp processes one prior at a time.
template <typename In, typename T = compute_t<In>>
struct LogitCandidates {
  const LevelLogits& outputs;
  int64_t image;
  int num_classes, group_size;  // see LogitRow
  const Filter<T>& filter;

  template <int kBlockThreads, typename F>
  __device__ void for_each(F&& f) const {
    const int64_t num_priors = outputs.levels.num_priors();
    for (int64_t prior = threadIdx.x / kWarpSize; prior < num_priors; prior += kBlockThreads / kWarpSize) {
      const LevelRow at = level_row(outputs.levels, image, prior);
      const LogitRow<In> row{static_cast<const In*>(outputs.logits.of[at.level]) + at.row * num_classes, num_classes,
                             group_size};
      row.for_each_score(filter, [&](bool is_candidate, T score, int label) {
        if (is_candidate) f(make_candidate(score, static_cast<unsigned>(label * num_priors + prior)));
      });
    }
  }
};

template <typename In>
struct LogitRefill {
  LevelLogits outputs;
  int num_classes, group_size;
  Filter<compute_t<In>> filter;

  __device__ LogitCandidates<In> candidates_of(int64_t image) const {
    return {outputs, image, num_classes, group_size, filter};
  }
};

}  // namespace

template <typename T>
int launch_detect(const SelectParams<T>& params, const LevelPointers<const void>& logits, const BoxSource<T>& source,
                  bool best_only, int64_t num_images, void* workspace, CUstream_st* stream) {
  WorkspaceLayout layout(workspace);
  const CandidateLists lists = pruned_candidate_lists(layout, num_images, params.num_classes,
                                                      max_detect_candidates(params, best_only), params.score_threshold);
  const Filter<T> filter{params.score_threshold, min_logit_margin(params.score_threshold), best_only};
  const LevelLogits outputs{source.levels, logits};
  return dispatch_dtype(params.dtype, [&](auto type) {
    using In = decltype(type);
    if constexpr (std::is_same_v<compute_t<In>, T>) {
      return static_cast<cudaError_t>(collect_and_select(
          lists, num_images, params.num_classes, stream,
          [&](const CandidateLists& images) {
            return dispatch_lane_group(params.num_classes, [&](auto lane_group) {
              using Group = decltype(lane_group);
              return launch_collect<Group::kLanes, Group::kPerLane, In>(outputs, params.num_classes, images, filter,
                                                                        stream);
            });
          },
          [&](const CandidateLists& images) {
            const int group_size =
                dispatch_lane_group(params.num_classes, [](auto lane_group) { return lane_group.kLanes; });
            const LogitRefill<In> refill{outputs, static_cast<int>(params.num_classes), group_size, filter};
            return launch_select<true>(images, source, params, refill, stream);
          }));
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

template int launch_detect<float>(const SelectParams<float>&, const LevelPointers<const void>&, const BoxSource<float>&,
                                  bool, int64_t, void*, CUstream_st*);
template int launch_detect<double>(const SelectParams<double>&, const LevelPointers<const void>&,
                                   const BoxSource<double>&, bool, int64_t, void*, CUstream_st*);

}  // namespace ssd_ops
