// Plan: in collect_logits_kernel a group of lanes takes kPriorsPerGroup priors at once, a lane every kGroup-th class,
// and a warp issues the loads of all of their logits before it uses the first. A prior is skipped if no class exceeds
// the background logit by the margin that the score threshold requires. For the others the warp reads the logits again
// (from the cache), a lane every 32nd class, computes the softmax (logit_row.cuh) and appends the candidates to those
// of the image. select_kernel (select_kernel.cuh) does the rest, a block for each image, and decodes only the boxes
// that it visits.
#include "cuda/common/lane_group.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/detect.h"
#include "cuda/select/logit_filter.cuh"
#include "cuda/select/logit_row.cuh"
#include "cuda/select/select_kernel.cuh"

namespace ssd_ops {
namespace {

// Appends the candidates of one prior.
template <int kPerLane, typename In, typename T>
__device__ __forceinline__ void append_scores(const LogitRow<kPerLane, In>& row, const Filter<T>& filter,
                                              const CandidateLists& lists, int64_t local_image, unsigned num_priors,
                                              unsigned prior) {
  constexpr int kChunk = kPerLane > 0 ? kPerLane : 1;  // steps that share an atomic
  const T threshold = current_threshold(lists, local_image, filter.score_threshold);
  const Softmax<T> softmax = softmax_of(row);
  if (softmax.all_below(threshold)) return;
  const int best = filter.best_only ? best_label(row, softmax.max) : kAnyLabel;
  for (int first = 0; first < row.steps(); first += kChunk) {
    T scores[kChunk];
    unsigned lanes[kChunk];
    int count = 0;
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      const bool counts = is_eligible(row, first + k, best);
      scores[k] = counts ? softmax.score(row[first + k]) : T(0);
      lanes[k] = __ballot_sync(kFullMask, counts && scores[k] >= threshold);
      count += __popc(lanes[k]);
    }
    if (count == 0) continue;
    const int64_t begin = reserve(lists, local_image, count);
    int64_t offset = begin;
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      write_candidates(lists, local_image, offset, lanes[k], scores[k],
                       static_cast<unsigned>(row.label(first + k)) * num_priors + prior);
      offset += __popc(lanes[k]);
    }
    tighten_cutoff(lists, local_image, begin, count);
  }
}

// The rows of logits of all priors.
struct LogitRows {
  Levels levels;
  LevelPointers<const void> logits;
};

// kGroup lanes with kPerLane classes each have the logits of a prior; kPerLane = 0: any number of classes.
template <int kGroup, int kPerLane, typename In, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    collect_logits_kernel(LogitRows all, CandidateLists lists, int num_classes, Filter<T> filter) {
  constexpr int kPriorsPerWarp = priors_per_warp<kGroup>();
  wait_for_previous_kernel();
  const int64_t num_tiles = count_level_tiles(all.levels, 1, kPriorsPerWarp);
  for (int64_t local_image = blockIdx.x; local_image < lists.num_images; local_image += gridDim.x) {
    int64_t index = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / kWarpSize;
    for (; index < num_tiles; index += static_cast<int64_t>(gridDim.y) * kWarps) {
      const LevelTile tile = level_tile(all.levels, 1, index, kPriorsPerWarp);
      const int64_t image = lists.first_image + local_image;
      const In* rows = static_cast<const In*>(all.logits.of[tile.level]) +
                       (image * all.levels.num_priors(tile.level) + tile.first) * num_classes;
      const int count = static_cast<int>(tile.left < kPriorsPerWarp ? tile.left : kPriorsPerWarp);
      unsigned priors = kFullMask >> (kWarpSize - count);
      if (filter.score_threshold > T(0)) {
        if constexpr (kPerLane > 0) {
          priors = may_have_candidate<kGroup, kPerLane>(rows, count, num_classes, filter, lists, local_image);
        } else {
          priors = long_rows_may_have_candidate(rows, count, num_classes, filter);
        }
      }
      for (; priors != 0; priors &= priors - 1) {
        const int r = __ffs(static_cast<int>(priors)) - 1;
        LogitRow<kPerLane == 0 ? 0 : (kGroup * kPerLane + kWarpSize - 1) / kWarpSize, In> row;
        row.load(rows + static_cast<int64_t>(r) * num_classes, num_classes);
        append_scores(row, filter, lists, local_image, static_cast<unsigned>(all.levels.num_priors()),
                      static_cast<unsigned>(all.levels.first_prior[tile.level] + tile.first + r));
      }
    }
  }
}

template <int kGroup, int kPerLane, typename In, typename T>
cudaError_t launch_collect(const LogitRows& rows, int64_t num_classes, const CandidateLists& lists,
                           const Filter<T>& filter, cudaStream_t stream) {
  const dim3 grid = collect_grid(lists, ceil_div(count_level_tiles(rows.levels, 1, priors_per_warp<kGroup>()), kWarps));
  return launch_dependent(collect_logits_kernel<kGroup, kPerLane, In, T>, grid, kThreads, 0, stream, rows, lists,
                          static_cast<int>(num_classes), filter);
}

// All candidates of an image, for select_kernel; a warp takes a prior at a time.
template <typename In, typename T = compute_t<In>>
struct LogitCandidates {
  const LogitRows& rows;
  int64_t image;
  int num_classes;
  const Filter<T>& filter;

  template <int kBlockThreads, typename F>
  __device__ void for_each(F&& f) const {
    const int64_t num_priors = rows.levels.num_priors();
    for (int64_t prior = threadIdx.x / kWarpSize; prior < num_priors; prior += kBlockThreads / kWarpSize) {
      const LevelRow at = level_row(rows.levels, image, prior);
      LogitRow<0, In> row;
      row.load(static_cast<const In*>(rows.logits.of[at.level]) + at.row * num_classes, num_classes);
      if (filter.score_threshold > T(0) && long_rows_may_have_candidate(row.logits, 1, num_classes, filter) == 0)
        continue;
      const Softmax<T> softmax = softmax_of(row);
      const int best = filter.best_only ? best_label(row, softmax.max) : kAnyLabel;
      for (int k = 0; k < row.steps(); ++k) {
        if (!is_eligible(row, k, best)) continue;
        const T score = softmax.score(row[k]);
        if (!(score >= filter.score_threshold)) continue;
        f(make_candidate(score, static_cast<unsigned>(row.label(k) * num_priors + prior)));
      }
    }
  }
};

template <typename In>
struct LogitRefill {
  LogitRows rows;
  int num_classes;
  Filter<compute_t<In>> filter;

  __device__ LogitCandidates<In> candidates_of(int64_t image) const { return {rows, image, num_classes, filter}; }
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
            const LogitRefill<In> refill{rows, static_cast<int>(params.num_classes), filter};
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
