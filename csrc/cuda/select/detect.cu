// Plan: in collect_logits_kernel a group of lanes takes kPriorsPerGroup priors at once, a lane every kGroup-th class,
// and a warp issues the loads of all of their logits before it uses the first (logit_group.cuh). A prior is skipped if
// no class exceeds the background logit by the margin that the score threshold requires. Of the others the groups
// compute the softmax, each of one prior at a time, and the warp appends the candidates to those of the image. Rows of
// many classes are read again for each step instead, a prior a warp (logit_row.cuh). select_kernel (select_kernel.cuh)
// does the rest, a block for each image, and decodes only the boxes that it visits.
#include "cuda/common/lane_group.cuh"
#include "cuda/select/detect.h"
#include "cuda/select/logit_group.cuh"
#include "cuda/select/select_kernel.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
// Blocks at once on a multiprocessor, of rows of few classes: more on GPUs for which the compiler fits 64 registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int kBlocksPerSm = 3;
#else
constexpr int kBlocksPerSm = 4;
#endif

// The rows of logits of all priors.
struct LogitRows {
  Levels levels;
  LevelPointers<const void> logits;
};

// kGroup lanes with kPerLane classes each have the logits of a prior; kPerLane = 0: any number of classes. The first
// logits are loaded before the previous kernel has completed: it only clears the lists, and it began after the logits
// were written.
template <int kGroup, int kPerLane, typename In, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) && kPerLane <= 6 ? kBlocksPerSm : 2)
    collect_logits_kernel(LogitRows all, CandidateLists lists, int num_classes, Filter<T> filter) {
  constexpr int kAtOnce = kPriorsPerWarp<kGroup>;
  const int64_t num_tiles = count_level_tiles(all.levels, 1, kAtOnce);
  const auto num_priors = static_cast<unsigned>(all.levels.num_priors());
  for (int64_t local_image = blockIdx.x; local_image < lists.num_images; local_image += gridDim.x) {
    int64_t index = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / kWarpSize;
    for (; index < num_tiles; index += static_cast<int64_t>(gridDim.y) * kWarps) {
      const LevelTile tile = level_tile(all.levels, 1, index, kAtOnce);
      const int64_t image = lists.first_image + local_image;
      const In* rows = static_cast<const In*>(all.logits.of[tile.level]) +
                       (image * all.levels.num_priors(tile.level) + tile.first) * num_classes;
      const int count = static_cast<int>(tile.left < kAtOnce ? tile.left : kAtOnce);
      const auto first = static_cast<unsigned>(all.levels.first_prior[tile.level] + tile.first);
      if constexpr (kPerLane > 0) {
        const WarpOfPriors<kGroup, kPerLane, In> warp{rows, count, num_classes};
        const unsigned priors = warp.possible_candidates(filter);
        wait_for_previous_kernel();
        warp.append_candidates(priors, filter, lists, local_image, num_priors, first);
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
cudaError_t launch_collect(const LogitRows& rows, int64_t num_classes, const CandidateLists& lists,
                           const Filter<T>& filter, cudaStream_t stream) {
  const dim3 grid = collect_grid(lists, ceil_div(count_level_tiles(rows.levels, 1, kPriorsPerWarp<kGroup>), kWarps));
  return launch_dependent(collect_logits_kernel<kGroup, kPerLane, In, T>, grid, kThreads, 0, stream, rows, lists,
                          static_cast<int>(num_classes), filter);
}

// All candidates of an image, for select_kernel; a warp takes a prior at a time.
template <typename In, typename T = compute_t<In>>
struct LogitCandidates {
  const LogitRows& rows;
  int64_t image;
  int num_classes, group;
  const Filter<T>& filter;

  template <int kBlockThreads, typename F>
  __device__ void for_each(F&& f) const {
    const int64_t num_priors = rows.levels.num_priors();
    for (int64_t prior = threadIdx.x / kWarpSize; prior < num_priors; prior += kBlockThreads / kWarpSize) {
      const LevelRow at = level_row(rows.levels, image, prior);
      const LogitRow<In> row{static_cast<const In*>(rows.logits.of[at.level]) + at.row * num_classes, num_classes,
                             group};
      row.for_each_score(filter, [&](bool is_candidate, T score, int label) {
        if (is_candidate) f(make_candidate(score, static_cast<unsigned>(label * num_priors + prior)));
      });
    }
  }
};

template <typename In>
struct LogitRefill {
  LogitRows rows;
  int num_classes, group;
  Filter<compute_t<In>> filter;

  __device__ LogitCandidates<In> candidates_of(int64_t image) const {
    return {rows, image, num_classes, group, filter};
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
  const LogitRows rows{source.levels, logits};
  return dispatch_dtype(params.dtype, [&](auto type) {
    using In = decltype(type);
    if constexpr (std::is_same_v<compute_t<In>, T>) {
      return static_cast<cudaError_t>(collect_and_select(
          lists, num_images, params.num_classes, stream,
          [&](const CandidateLists& images) {
            return dispatch_lane_group(params.num_classes, [&](auto lane_group) {
              using Group = decltype(lane_group);
              return launch_collect<Group::kLanes, Group::kPerLane, In>(rows, params.num_classes, images, filter,
                                                                        stream);
            });
          },
          [&](const CandidateLists& images) {
            const int group =
                dispatch_lane_group(params.num_classes, [](auto lane_group) { return lane_group.kLanes; });
            const LogitRefill<In> refill{rows, static_cast<int>(params.num_classes), group, filter};
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
