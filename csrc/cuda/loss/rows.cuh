// The first kernel of multibox_loss: the cross entropy of every row of logits (a row is a prior of an image).
//
// Plan: a group of kGroup lanes processes kRowsPerGroup rows together and keeps them in registers, each lane every
// kGroup-th class, so that loads are coalesced. Maxima and sums of exponentials are reduced over the group by shuffles,
// in an order that depends only on the number of classes; each lane ends with the result of one row, own_row(). Logits
// are read once.
#pragma once

#include "cuda/common/lane_group.cuh"
#include "cuda/loss/row_sum.cuh"
#include "cuda/loss/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kRowThreads = 256;
constexpr int kRowsPerGroup = 4;

// The row of the group whose result reduce_scatter() leaves with this lane.
template <int kGroup>
__device__ __forceinline__ int own_row() {
  return static_cast<int>(threadIdx.x) % kGroup / (kGroup / kRowsPerGroup);
}

// Returns the sum of the lane's own_row(). Rows have at most kGroup * kPerLane classes; if `rows_left` is less than
// kRowsPerGroup, the last of them is read in place of those that are missing.
template <int kGroup, int kPerLane, typename In, typename T = compute_t<In>>
__device__ __forceinline__ RowSum<T> sum_rows(const In* logits, int64_t rows_left, int classes) {
  const int lane = threadIdx.x % kGroup;
  T x[kRowsPerGroup][kPerLane], maxima[kRowsPerGroup], sums[kRowsPerGroup];
  // Load.
#pragma unroll
  for (int r = 0; r < kRowsPerGroup; ++r) {
    const In* row = logits + (r < rows_left ? r : static_cast<int>(rows_left - 1)) * classes + lane;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) x[r][k] = k * kGroup + lane < classes ? widen(row[k * kGroup]) : -T(INFINITY);
  }
  // Maximum.
#pragma unroll
  for (int r = 0; r < kRowsPerGroup; ++r) {
    maxima[r] = x[r][0];
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) maxima[r] = max_of(maxima[r], x[r][k]);
  }
  const T max = reduce_scatter<kGroup>(maxima, [](T own, T other) { return max_of(own, other); });
  const T shift = isinf(max) ? T(0) : max;
  // Sum of exponentials.
#pragma unroll
  for (int r = 0; r < kRowsPerGroup; ++r) {
    const T row_shift = __shfl_sync(kFullMask, shift, r * (kGroup / kRowsPerGroup), kGroup);
    sums[r] = exp_term(x[r][0] - row_shift);
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) sums[r] += exp_term(x[r][k] - row_shift);
  }
  return {shift, reduce_scatter<kGroup>(sums, [](T own, T other) { return own + other; })};
}

// The same for any number of classes; a group is a warp.
template <typename In, typename T = compute_t<In>>
__device__ __forceinline__ RowSum<T> sum_long_rows(const In* logits, int64_t rows_left, int64_t classes) {
  RowSum<T> own{};
#pragma unroll
  for (int r = 0; r < kRowsPerGroup; ++r) {
    const RowSum<T> sum = warp_row_sum(logits + r * classes, r < rows_left ? classes : 0);
    if (own_row<kWarpSize>() == r) own = sum;
  }
  return own;
}

// kPerLane = 0: any number of classes. One block for a multiprocessor, since registers hold the logits of a group.
template <int kGroup, int kPerLane, typename In>
__global__ void __launch_bounds__(kRowThreads, 1) rows_kernel(LossParams params, LossWorkspace workspace) {
  using T = compute_t<In>;
  wait_for_previous_kernel();
  const int64_t classes = params.num_classes;
  const LevelTile tile =
      level_tile(params.levels, params.batch_size, global_thread_index() / kGroup, int64_t{kRowsPerGroup});
  // Groups past the last row read that row, for all lanes must join the shuffles, but write nothing.
  const bool past_end = tile.left <= 0;
  const LevelRow first = past_end ? level_row(params.levels, params.batch_size - 1, params.levels.num_priors() - 1)
                                  : LevelRow{tile.level, tile.first};
  const In* logits = static_cast<const In*>(params.logits.of[first.level]) + first.row * classes;
  const int64_t rows_left = past_end ? 1 : tile.left;
  RowSum<T> own;
  if constexpr (kPerLane == 0) {
    own = sum_long_rows(logits, rows_left, classes);
  } else {
    own = sum_rows<kGroup, kPerLane>(logits, rows_left, static_cast<int>(classes));
  }
  const int64_t row_in_group = own_row<kGroup>();
  int64_t label = 0;
  if (threadIdx.x % (kGroup / kRowsPerGroup) == 0 && row_in_group < tile.left) {
    const int64_t row = batch_row(params.levels, tile.level, tile.first + row_in_group);
    label = params.labels[row];
    const T target = widen(logits[row_in_group * classes + (label > 0 && label < classes ? label : 0)]);
    static_cast<T*>(params.cross_entropy())[row] = log_of(own.sum) - (target - own.shift);
  }
  const int positives = __syncthreads_count(label > 0);
  if (threadIdx.x == 0) workspace.positives[blockIdx.x] = positives;
  // Initializes the workspace of the kernels that follow.
  if (blockIdx.x == 0 && threadIdx.x == 0) *workspace.ticket = 0;
  for (int64_t i = global_thread_index(); i < workspace.num_zeroed_words; i += num_global_threads())
    workspace.zeroed_words[i] = 0;
}

template <int kGroup, int kPerLane, typename In>
cudaError_t launch_rows_of(const LossParams& params, const LossWorkspace& workspace, cudaStream_t stream) {
  return launch(rows_kernel<kGroup, kPerLane, In>, grid_blocks(workspace.num_row_blocks, 1), kRowThreads, 0, stream,
                params, workspace);
}

inline int64_t count_row_blocks(const LossParams& params) {
  const int64_t groups = count_level_tiles(params.levels, params.batch_size, kRowsPerGroup);
  return dispatch_lane_group(params.num_classes,
                             [&](auto group) { return ceil_div(groups, kRowThreads / group.kLanes); });
}

inline cudaError_t launch_rows(const LossParams& params, const LossWorkspace& workspace, cudaStream_t stream) {
  return dispatch_dtype(params.logits_type, [&](auto zero) {
    using In = decltype(zero);
    return dispatch_lane_group(params.num_classes, [&](auto group) {
      return launch_rows_of<decltype(group)::kLanes, decltype(group)::kPerLane, In>(params, workspace, stream);
    });
  });
}

}  // namespace
}  // namespace ssd_ops
