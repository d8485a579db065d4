// Plan: a block of collect_logits_kernel has the logits of a tile of priors in shared memory (shared_copy.cuh), and
// one or two threads test a prior: it is skipped if no class exceeds the background logit by the margin that the score
// threshold requires. For the others a group of lanes computes the softmax of a prior, each lane every kGroup-th class
// (logit_group.cuh), and the warp appends the candidates to the list of the image. Rows of many classes do not fit into
// registers: there a warp processes one prior at a time, and reads its logits again for each step (logit_row.cuh).
// select_kernel (select_kernel.cuh) does the rest, one block per image, and decodes only the boxes that it visits.
#include "cuda/common/lane_group.cuh"
#include "cuda/common/shared_copy.cuh"
#include "cuda/select/detect.h"
#include "cuda/select/logit_group.cuh"
#include "cuda/select/select_kernel.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;  // for long rows

// A tile of rows has at most kTileBytes, so that several blocks fit into a multiprocessor: some compute while others
// load. It has at least 32 rows, or 16 if those exceed kMaxTileBytes: a block of sm_75 has 64 KB.
constexpr int kMaxTileRows = 256;
constexpr int64_t kTileBytes = 24 << 10, kMaxTileBytes = 48 << 10;
// A row has one lane in the first test, two in tiles of fewer rows: more warps hide more latency, fewer leave more
// shared memory to the rows.
constexpr int kMinOneLaneRows = 128;

// The logits of all priors of the batch.
struct LevelLogits {
  Levels levels;
  LevelPointers<const void> logits;
};

// A block has the logits of a tile of consecutive priors of an image in shared memory, `rows_per_warp` for each warp.
// They are loaded before the previous kernel has completed: that one only clears the lists, and it began after the
// logits were written.
template <int kGroup, int kPerLane, typename In, typename T>
__global__ void collect_logits_kernel(LevelLogits outputs, CandidateLists lists, int num_classes, int rows_per_warp,
                                      Filter<T> filter) {
  constexpr int kStaged = StagedCandidates<T>::kCapacity;
  auto* const staged = dynamic_shared<candidate_t<T>>();
  const int warps = static_cast<int>(blockDim.x) / kWarpSize, warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int rows = warps * rows_per_warp;
  const auto num_images = static_cast<unsigned>(lists.num_images);
  const int64_t local_image = blockIdx.x % num_images, image = lists.first_image + local_image;
  const LevelTile tile = level_tile(outputs.levels, 1, blockIdx.x / num_images, rows);
  const In* logits = static_cast<const In*>(outputs.logits.of[tile.level]) +
                     (image * outputs.levels.num_priors(tile.level) + tile.first) * num_classes;
  const int count = static_cast<int>(tile.left < rows ? tile.left : rows);
  const SharedCopy copy(staged + warps * kStaged, logits, count * num_classes * static_cast<int>(sizeof(In)));
  wait_for_previous_kernel();
  const int first = warp * rows_per_warp;  // of the warp, in the tile
  const LogitTile<In> own{reinterpret_cast<const In*>(copy.wait() + copy.skipped()) + first * num_classes,
                          rows_per_warp, count - first, num_classes};
  const T threshold = current_threshold(lists, local_image, filter.score_threshold);  // in flight during the test
  const unsigned wanted = own.may_have_candidate(filter);
  own.template append_candidates<kGroup, kPerLane>(
      wanted, threshold, filter, lists, local_image, static_cast<unsigned>(outputs.levels.num_priors()),
      static_cast<unsigned>(outputs.levels.first_prior[tile.level] + tile.first + first), {staged + warp * kStaged});
}

// For any number of classes: a warp has a row at a time.
template <typename In, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    collect_long_rows_kernel(LevelLogits outputs, CandidateLists lists, int num_classes, Filter<T> filter) {
  wait_for_previous_kernel();
  const int64_t num_priors = outputs.levels.num_priors();
  for (int64_t local_image = blockIdx.x; local_image < lists.num_images; local_image += gridDim.x) {
    int64_t prior = static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / kWarpSize;
    for (; prior < num_priors; prior += static_cast<int64_t>(gridDim.y) * kWarps) {
      const LevelRow at = level_row(outputs.levels, lists.first_image + local_image, prior);
      const LogitRow<In> row{static_cast<const In*>(outputs.logits.of[at.level]) + at.row * num_classes, num_classes,
                             kWarpSize};
      row.for_each_score(filter, [&](bool appends, T score, int label) {
        appends = appends && score >= current_threshold(lists, local_image, filter.score_threshold);
        const auto index = static_cast<unsigned>(label * num_priors + prior);
        append<1, T>(lists, local_image, {appends}, {score}, {index});
      });
    }
  }
}

template <int kGroup, int kPerLane, typename In, typename T>
cudaError_t launch_collect(const LevelLogits& outputs, int64_t num_classes, const CandidateLists& lists,
                           const Filter<T>& filter, cudaStream_t stream) {
  const auto classes = static_cast<int>(num_classes);
  if constexpr (kPerLane == 0) {
    const dim3 grid = collect_grid(lists, ceil_div(outputs.levels.num_priors(), kWarps));
    return launch_dependent(collect_long_rows_kernel<In, T>, grid, kThreads, 0, stream, outputs, lists, classes,
                            filter);
  } else {
    const int64_t row_bytes = num_classes * static_cast<int64_t>(sizeof(In));
    int rows = kMaxTileRows;
    while (rows > kWarpSize && rows * row_bytes > kTileBytes) rows /= 2;
    if (rows * row_bytes > kMaxTileBytes) rows /= 2;
    const int rows_per_warp = rows < kMinOneLaneRows ? kWarpSize / 2 : kWarpSize, warps = rows / rows_per_warp;
    const int64_t staged_bytes = warps * StagedCandidates<T>::kBytes;
    return launch_dependent(collect_logits_kernel<kGroup, kPerLane, In, T>,
                            tile_blocks(lists, count_level_tiles(outputs.levels, 1, rows)), warps * kWarpSize,
                            static_cast<size_t>(staged_bytes + shared_copy_bytes(rows * row_bytes)), stream, outputs,
                            lists, classes, rows_per_warp, filter);
  }
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
