// The first kernel of multibox_loss: the sort key of every row of logits (a row is a prior of an image), which contains
// its cross entropy, and the sums of the positives.
//
// Plan: a block processes a tile of rows of one image and one level. It copies their logits to shared memory, all at
// once, where each row is summed by one thread, so that few instructions and no shuffles are needed. The rows of a warp
// are in different banks if a row has an odd number of words; else several lanes sum a row together, so many that their
// rows are in different banks again (RowPlan::lanes). Rows that are too long for shared memory are read from global
// memory by a warp each, twice, the second time from the cache. Losses of positives are summed here, where they cost
// nothing: mining then needs neither boxes nor labels.
#pragma once

#include "cuda/common/async_copy.cuh"
#include "cuda/loss/row_sum.cuh"
#include "cuda/loss/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kRowThreads = 64, kMaxRows = 64, kMinRows = 16;
constexpr int64_t kStagedBytes = 24 << 10;    // of a tile: several blocks fit a multiprocessor
constexpr int64_t kMaxStagedRowBytes = 2048;  // of a row that is staged

template <typename T>
__device__ double box_loss(const LossParams& params, LevelRow at, int64_t row) {
  const Box<T> a = load_box_as<T>(params.loc_type, params.loc.of[at.level], at.row);
  const Box<T> b = load_box_as<T>(params.target_type, params.loc_targets, row);
  double sum = smooth_l1(a.x1 - b.x1);
  sum += smooth_l1(a.y1 - b.y1);
  sum += smooth_l1(a.x2 - b.x2);
  return sum + smooth_l1(a.y2 - b.y2);
}

// The sums of a thread.
struct RowTotals {
  unsigned positives = 0, background = 0, invalid = 0;  // at most kMaxRows each
  double loc = 0, cls = 0;
};

// Writes the totals of the block.
__device__ inline void write_totals(const LossWorkspace& workspace, const RowTotals& own) {
  static_assert(kMaxRows < 1 << 10, "three counts fit 32 bits");
  const unsigned counts = block_sum(own.positives | own.background << 10 | own.invalid << 20);
  const unsigned positives = counts & 1023, invalid = counts >> 20;
  double loc = 0, cls = 0;
  if (positives > 0) {
    loc = block_sum(own.loc);
    cls = block_sum(own.cls);
  }
  if (threadIdx.x != 0) return;
  if (invalid > 0) loc = cls = NAN;  // labels are not validated on a GPU
  workspace.tile_counts[blockIdx.x] = {positives, counts >> 10 & 1023};
  workspace.tile_sums[blockIdx.x] = {loc, cls};
}

// kLanes: lanes that sum a row; 0: plan.lanes, known at run time only. kStaged: through shared memory.
template <bool kStaged, int kLanes, typename In>
__global__ void __launch_bounds__(kRowThreads) rows_kernel(LossParams params, LossWorkspace workspace, RowPlan plan) {
  using T = compute_t<In>;
  wait_for_previous_kernel();
  const int64_t image = quotient(blockIdx.x, plan.tiles_per_image);
  const LevelTile tile = level_tile(params.levels, 1, blockIdx.x - image * plan.tiles_per_image, int64_t{plan.rows});
  const int count = static_cast<int>(tile.left < plan.rows ? tile.left : plan.rows);
  const int classes = static_cast<int>(params.num_classes);
  const LevelRow first{tile.level, image * params.levels.num_priors(tile.level) + tile.first};
  const int64_t first_row = image * params.levels.num_priors() + params.levels.first_prior[tile.level] + tile.first;
  const In* logits = static_cast<const In*>(params.logits.of[tile.level]) + first.row * params.num_classes;
  if constexpr (kStaged) logits = copy_to_shared(logits, count * classes);
  const int lanes = kLanes > 0 ? kLanes : plan.lanes, lane = threadIdx.x % lanes, groups = kRowThreads / lanes;
  RowTotals totals;
  // Of the row that is summed next: boxes are loaded while logits are copied.
  const auto load_label = [&](int r) -> int64_t {
    if (lane != 0 || r >= count) return -1;
    const int64_t label = params.labels[first_row + r];
    totals.background += label == 0;
    totals.invalid += label < -1 || label >= classes;
    if (label > 0) {
      ++totals.positives;
      totals.loc += box_loss<T>(params, {first.level, first.row + r}, first_row + r);
    }
    return label;
  };
  int r = threadIdx.x / lanes;
  int64_t label = load_label(r);
  if constexpr (kStaged) {
    wait_for_copies();
    __syncthreads();
  }
  // All lanes of a warp join the shuffles, also those past the last row.
  for (int of_warp = (threadIdx.x & ~(kWarpSize - 1)) / lanes; of_warp < count; of_warp += groups) {
    const In* row = logits + static_cast<int64_t>(r < count ? r : count - 1) * classes;
    const RowSum<T> own = row_sum<(kStaged && sizeof(In) == 2)>(row, classes, lane, lanes);
    if (lane == 0 && r < count) {
      const T target = widen(row[label > 0 && label < classes ? label : 0]);
      const T cross_entropy = log_of(own.sum) - (target - own.shift);
      sort_keys<T>(params)[first_row + r] = row_key(cross_entropy, label);
      if (label > 0) totals.cls += cross_entropy;
    }
    r += groups;
    label = load_label(r);
  }
  write_totals(workspace, totals);
  // Initializes the workspace of the kernels that follow.
  if (blockIdx.x == 0 && threadIdx.x == 0) *workspace.ticket = 0;
  for (int64_t i = global_thread_index(); i < workspace.num_zeroed_words; i += num_global_threads())
    workspace.zeroed_words[i] = 0;
}

inline RowPlan plan_rows(const LossParams& params) {
  const int64_t bytes = params.num_classes * bytes_of(params.logits_type);
  RowPlan plan{};
  if (bytes > kMaxStagedRowBytes) {
    plan.rows = kMinRows;
    plan.lanes = kWarpSize;
  } else {
    plan.rows = kMaxRows;
    while (plan.rows > kMinRows && plan.rows * bytes > kStagedBytes) plan.rows /= 2;
    const int64_t words = bytes_of(params.logits_type) == 2 ? params.num_classes / 2 : params.num_classes;
    plan.lanes = 1;
    while (params.num_classes % 2 == 0 && plan.lanes < kWarpSize && words % (2 * plan.lanes) == 0) plan.lanes *= 2;
    plan.shared_bytes = static_cast<size_t>(plan.rows * bytes + 32);
  }
  plan.tiles_per_image = count_level_tiles(params.levels, 1, plan.rows);
  return plan;
}

inline cudaError_t launch_rows(const LossParams& params, const LossWorkspace& workspace, cudaStream_t stream) {
  const RowPlan plan = plan_rows(params);
  return dispatch_dtype(params.logits_type, [&](auto zero) {
    using In = decltype(zero);
    const auto with = [&](auto kernel) {
      return launch(kernel, grid_blocks(workspace.num_tiles, 1), kRowThreads, plan.shared_bytes, stream, params,
                    workspace, plan);
    };
    if (plan.shared_bytes == 0) return with(rows_kernel<false, kWarpSize, In>);
    return plan.lanes == 1 ? with(rows_kernel<true, 1, In>) : with(rows_kernel<true, 0, In>);
  });
}

}  // namespace
}  // namespace ssd_ops
