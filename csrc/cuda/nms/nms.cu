// Plan: boxes are sorted by rank once. Then, tile after tile, the next kTile boxes that are still alive are resolved
// among themselves, and those that are kept push: every box behind is compared with them, and dies if one suppresses
// it. Only kept boxes push and only living ones are compared, so crowded boxes cost little, and memory is O(n).
//
// A tile takes one launch, tile_kernel. Some of its blocks push what the tile before has kept: a thread is a box, a
// block compares 256 of them with a share of the kept boxes, a shared-memory load of 256 at a time. (Of many boxes
// those that lie together come together, cell_order.cuh, so that a block loads only the kept boxes near by.) The other
// blocks compare the boxes of the tile with each other, 64 with 128, a bit for a pair. The last block to finish
// resolves the tile, in rounds: a box is kept when nothing open or kept before it suppresses it, and dies when
// something kept does; a warp settles 32 boxes by all that the last round has settled and repeats that among themselves
// until nothing changes. A box without such a pair is settled at once, chains take some rounds: the one greedy
// solution. Then that block chooses the next tile from those that are alive; some of them die by the push that follows,
// and are found dead before it is resolved. When nothing is left, the remaining launches find an empty tile and return;
// the host asks after some tiles, so that there are not many of these.
#include "cuda/nms/nms.h"
#include "cuda/nms/rank.cuh"
#include "cuda/nms/suppress_remaining.cuh"
#include "cuda/nms/tile.cuh"

namespace ssd_ops {
namespace {

template <typename In, typename T>
__global__ void __launch_bounds__(kThreads)
    sort_boxes_kernel(const In* boxes, const int64_t* order, const int64_t* classes, int64_t n, NmsWork<T> work,
                      int64_t* progress) {
  await_previous();
  Box<T> centers{T(INFINITY), T(INFINITY), -T(INFINITY), -T(INFINITY)};
  for (int64_t r = global_thread(); r < n; r += global_threads()) {
    work.boxes[r] = load_box(boxes, order[r]);
    if (classes != nullptr) work.classes[r] = classes[order[r]];
    begin_tiles(work, r, n, progress);
    centers = grown(centers, center_of(work.boxes[r]));
  }
  centers = box_around(true, centers);
  if (threadIdx.x == 0) work.ranges[blockIdx.x] = centers;
}

template <bool has_classes, bool by_cell, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    tile_kernel(int64_t n, NmsWork<T> work, SuppressionRule<T> rule, PushGrid grid, const int64_t* order, int64_t* keep,
                int64_t* progress) {
  await_previous();
  const int count = work.state->tile;
  if (count == 0) return;
  const unsigned pushing = grid.blocks * grid.shares;
  if (blockIdx.x < pushing) {
    push<has_classes, by_cell>(n, work, rule, grid);
  } else {
    compare_in_tile<has_classes>(work, static_cast<int>(blockIdx.x - pushing), count, rule);
  }
  if (!is_last_block(&work.state->ticket)) return;
  resolve_tile<has_classes>(work, order, count, keep, progress);
  choose_tile(work, n, progress);
}

// How many shares make enough blocks to keep a large GPU busy.
PushGrid push_grid(int64_t n) {
  constexpr unsigned kEnough = 640, kMostShares = 16;
  const unsigned blocks = grid_blocks(n, kThreads, kMostBlocks), shares = kEnough / blocks;
  return {blocks, shares < 1 ? 1 : shares > kMostShares ? kMostShares : shares};
}

// Below a threshold under 0 far boxes suppress each other too.
bool by_cell(const NmsInputs& in, double iou_threshold) { return in.count > kMostRanked && iou_threshold >= 0; }

template <bool has_classes, typename T>
cudaError_t launch_tiles(const NmsInputs& in, double iou_threshold, const NmsWork<T>& work, const int64_t* order,
                         int64_t first, int64_t tiles, int64_t* keep, int64_t* progress, cudaStream_t stream) {
  auto* kernel = by_cell(in, iou_threshold) ? tile_kernel<has_classes, true, T> : tile_kernel<has_classes, false, T>;
  const unsigned comparing = tile_blocks(in.count < kTile ? in.count : kTile);
  cudaError_t status = cudaSuccess;
  for (int64_t tile = first; tile < first + tiles && status == cudaSuccess; ++tile) {
    const PushGrid grid = tile > 0 ? push_grid(in.count) : PushGrid{0, 0};
    const bool behind_ours = tile > first || first == 0;  // not behind the host's copy
    status =
        launch_as(behind_ours ? Begin::early : Begin::after_previous, kernel, grid.blocks * grid.shares + comparing,
                  kThreads, 0, stream, in.count, work, suppression_rule<T>(iou_threshold), grid, order, keep, progress);
  }
  return status;
}

template <typename T>
cudaError_t sort_boxes(const NmsInputs& in, const NmsWork<T>& work, int64_t* order, int64_t* keep, int64_t* progress,
                       cudaStream_t stream) {
  if (in.scores == nullptr) {
    return dispatch_dtype(in.box_type, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch(sort_boxes_kernel<In, T>, grid_blocks(in.count, kThreads, kMostBlocks), kThreads, 0, stream,
                      static_cast<const In*>(in.boxes), order, in.classes, in.count, work, progress);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  }
  return dispatch_dtype(in.score_type, [&](auto type) {
    using Score = decltype(type);
    const Unsorted<Score> all{static_cast<const Score*>(in.scores), in.classes, in.boxes, in.box_type, in.count};
    return launch(rank_kernel<Score, T>, grid_blocks(in.count, kWarpSize), kThreads, 0, stream, all, work, order, keep,
                  progress);
  });
}

}  // namespace

size_t nms_workspace_bytes(int64_t n) {
  NmsWork<double> work;  // the larger of the two
  return lay_out<double>(n, nullptr, &work);
}

int64_t nms_tiles(int64_t n) { return ceil_div(n, kTile); }

int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* order, int64_t first, int64_t tiles,
               int64_t* keep, int64_t* progress, CUstream_st* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    NmsWork<T> work;
    lay_out(in.count, workspace, &work);
    cudaError_t status = first == 0 ? sort_boxes(in, work, order, keep, progress, stream) : cudaSuccess;
    if (status == cudaSuccess && first == 0 && by_cell(in, iou_threshold))
      status = sort_by_cell(in.count, work, grid_blocks(in.count, kThreads, kMostBlocks), stream);
    if (status != cudaSuccess) return status;
    auto* launch_all = in.classes != nullptr ? launch_tiles<true, T> : launch_tiles<false, T>;
    return launch_all(in, iou_threshold, work, order, first, tiles, keep, progress, stream);
  };
  return in.box_type == Dtype::f64 ? run(double()) : run(float());
}

}  // namespace ssd_ops
