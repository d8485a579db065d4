// Read in this order: nms.h (the interface), this file, workspace.cuh (what the kernels share), rank.cuh (sorting),
// compare_in_tile.cuh, resolve_words.cuh and resolve_tile.cuh, suppress_remaining.cuh, cell_order.cuh (the order of
// many boxes).
//
// Up to kMaxFew boxes: few_boxes.cuh. Up to kMaxChunk boxes without classes, and with classes where unmeasured.h is
// switched on: chunk.cuh and whole_input.cuh. Up to kMaxInRanges, where it is: ranges.cuh. All others are processed by
// the kernels of this file.
//
// Plan: boxes are sorted by score once. Then tile after tile, the next kNmsTile boxes that are not yet suppressed are
// resolved among themselves, and every kept box suppresses the lower-scoring boxes that overlap it; only boxes not yet
// suppressed are tested. So only kept boxes are compared with all that follow, crowded boxes cost little, and memory is
// O(n).
//
// A tile takes two launches. Some blocks of tile_kernel test whether the kept boxes of the previous tile suppress the
// boxes that follow them, one thread per box: a block compares 256 boxes with a split of the kept boxes, loading 256 of
// those at a time into shared memory. (Many boxes are processed in the order of the cells of a grid, cell_order.cuh, so
// that a block needs only the kept boxes near its own.) The other blocks compare the boxes of the tile with each other,
// 64 with 128 per block, one bit per pair. Then resolve_kernel, one block, resolves the tile in rounds: a box is kept
// if no kept or undecided box that precedes it suppresses it, and suppressed if a kept one does. In each round a warp
// decides 32 boxes by all that the previous round has decided, and repeats that among the 32 until nothing changes.
// Most boxes are decided in the first round, chains of overlapping boxes take several; the result is that of the greedy
// algorithm. Dependent loads bound this kernel by their latency, so its block has the maximum of 1024 threads, two
// words of 32 boxes per warp. It then chooses the next tile from the boxes that are not suppressed yet. The boxes that
// were just kept suppress some of these in the next launch, before the tile is resolved. When no boxes are left, the
// remaining launches find an empty tile and return; the host checks after some tiles, so there are few of these.
#include "cuda/nms/compare_in_tile.cuh"
#include "cuda/nms/few_boxes.cuh"
#include "cuda/nms/launch_ranges.cuh"
#include "cuda/nms/nms.h"
#include "cuda/nms/rank.cuh"
#include "cuda/nms/resolve_tile.cuh"
#include "cuda/nms/suppress_remaining.cuh"
#include "cuda/nms/whole_input.cuh"

namespace ssd_ops {
namespace {

template <typename In, typename T>
__global__ void __launch_bounds__(kThreads)
    gather_boxes_kernel(const In* boxes, const int64_t* order, const int64_t* classes, int64_t n,
                        NmsWorkspace<T> work) {
  wait_for_previous_kernel();
  Box<T> centers = empty_bounds<T>();
  for (int64_t rank = global_thread_index(); rank < n; rank += num_global_threads()) {
    work.boxes[rank] = load_box(boxes, order[rank]);
    if (classes != nullptr) work.classes[rank] = classes[order[rank]];
    initialize_tiles(work, rank, n);
    centers = enclose(centers, center_of(work.boxes[rank]));
  }
  centers = block_bounds(true, centers);
  if (threadIdx.x == 0) work.center_bounds[blockIdx.x] = centers;
}

template <bool has_classes, bool in_cell_order, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    tile_kernel(int64_t n, NmsWorkspace<T> work, SuppressionThresholds<T> thresholds, SuppressShape shape) {
  wait_for_previous_kernel();
  const int count = work.state->tile_size;
  if (count == 0) return;
  const unsigned suppress_blocks = shape.box_blocks * shape.kept_splits;
  if (blockIdx.x < suppress_blocks) {
    suppress_remaining<has_classes, in_cell_order>(n, work, thresholds, shape);
  } else {
    compare_in_tile<has_classes>(work, static_cast<int>(blockIdx.x - suppress_blocks), count, thresholds);
  }
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kResolveThreads, 1)
    resolve_kernel(int64_t n, NmsWorkspace<T> work, const int64_t* order, int64_t* keep, NmsProgress* progress) {
  wait_for_previous_kernel();
  const int count = work.state->tile_size;
  if (count == 0) return;
  write_kept<has_classes>(work, resolve_tile(work, count), order, keep);
  choose_tile(work, n, progress);
}

constexpr int64_t kTilesPerCheck = 8;

// The kept boxes are split until there are enough blocks to fill a large GPU.
SuppressShape suppress_shape(int64_t n) {
  constexpr unsigned kEnoughBlocks = 640, kMaxSplits = 16;
  const unsigned blocks = grid_blocks(n, kThreads, kMaxBlocks), splits = kEnoughBlocks / blocks;
  return {blocks, splits < 1 ? 1 : splits > kMaxSplits ? kMaxSplits : splits};
}

// With a negative threshold distant boxes suppress each other too.
bool uses_cell_order(const NmsInputs& in, double iou_threshold) {
  return in.num_boxes > kMaxRanked && iou_threshold >= 0;
}

template <bool has_classes, typename T>
cudaError_t launch_tiles(const NmsInputs& in, double iou_threshold, const NmsWorkspace<T>& work, const int64_t* order,
                         int64_t first_tile, int64_t num_tiles, int64_t* keep, NmsProgress* progress,
                         cudaStream_t stream) {
  auto* kernel =
      uses_cell_order(in, iou_threshold) ? tile_kernel<has_classes, true, T> : tile_kernel<has_classes, false, T>;
  const unsigned compare_blocks = num_compare_blocks(in.num_boxes < kNmsTile ? in.num_boxes : kNmsTile);
  cudaError_t status = cudaSuccess;
  for (int64_t tile = first_tile; tile < first_tile + num_tiles && status == cudaSuccess; ++tile) {
    const SuppressShape shape = tile > 0 ? suppress_shape(in.num_boxes) : SuppressShape{0, 0};
    const bool follows_own_launch = tile > first_tile || first_tile == 0;  // not a copy to the host
    status = launch_as(follows_own_launch ? Begin::early : Begin::after_previous, kernel,
                       shape.box_blocks * shape.kept_splits + compare_blocks, kThreads, 0, stream, in.num_boxes, work,
                       suppression_thresholds<T>(iou_threshold), shape);
    if (status == cudaSuccess)
      status = launch_dependent(resolve_kernel<has_classes, T>, 1, kResolveThreads, 0, stream, in.num_boxes, work,
                                order, keep, progress);
  }
  return status;
}

// With classes, the chunk in order of cells alone was measured to be slower; in that of classes it was not measured.
bool is_one_chunk(int64_t num_boxes, bool has_classes) {
  return num_boxes <= kMaxChunk && (!has_classes || uses_unmeasured_kernels());
}

// Writes the boxes to the workspace by descending score: in the given order, or by rank.
template <typename T>
cudaError_t sort_boxes(const NmsInputs& in, const NmsWorkspace<T>& work, int64_t* order, int64_t* keep,
                       cudaStream_t stream) {
  if (in.scores == nullptr) {
    return dispatch_dtype(in.box_type, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        return launch(gather_boxes_kernel<In, T>, grid_blocks(in.num_boxes, kThreads, kMaxBlocks), kThreads, 0, stream,
                      static_cast<const In*>(in.boxes), order, in.classes, in.num_boxes, work);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  }
  return dispatch_dtype(in.score_type, [&](auto type) {
    using Score = decltype(type);
    const UnsortedBoxes<Score> unsorted{static_cast<const Score*>(in.scores), in.classes, in.boxes, in.box_type,
                                        in.num_boxes};
    return launch(rank_kernel<Score, T>, grid_blocks(in.num_boxes, kWarpSize), kThreads, 0, stream, unsorted, work,
                  order, keep);
  });
}

}  // namespace

size_t nms_workspace_bytes(int64_t num_boxes, bool has_classes) {
  WorkspaceLayout layout(nullptr);  // of the larger of the types
  if (num_boxes <= kMaxFew) {
    few_workspace(num_boxes, layout);
  } else if (uses_ranges(num_boxes)) {
    ranges_workspace<double>(num_boxes, has_classes, layout);
  } else if (is_one_chunk(num_boxes, has_classes)) {
    chunk_workspace<double>(num_boxes, has_classes, layout);
    kept_workspace<uint64_t>(num_boxes, layout);
  } else {
    nms_workspace<double>(num_boxes, layout);
  }
  return layout.bytes();
}

int64_t max_ranked() { return uses_unmeasured_kernels() ? kMaxChunk : kMaxRanked; }

int64_t num_nms_tiles(int64_t num_boxes) {
  static_assert(kSmallRange >= kNmsTile);
  return ceil_div(num_boxes, kNmsTile) + (uses_ranges(num_boxes) ? 1 : 0);  // one range may be chosen again
}

int64_t nms_tiles_per_check(int64_t num_boxes) { return uses_ranges(num_boxes) ? kRangesPerCheck : kTilesPerCheck; }

int launch_nms(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* order, int64_t first_tile,
               int64_t num_tiles, int64_t* keep, NmsProgress* progress, CUstream_st* stream) {
  const auto run = [&](auto type) {
    using T = decltype(type);
    if (in.num_boxes <= kMaxFew) {
      auto* launch_chosen = in.classes != nullptr ? launch_few<true, T> : launch_few<false, T>;
      return launch_chosen(in, iou_threshold, workspace, keep, progress, stream);
    }
    if (uses_ranges(in.num_boxes)) {
      auto* launch_chosen = in.classes != nullptr ? launch_ranges<true, T> : launch_ranges<false, T>;
      return launch_chosen(in, iou_threshold, workspace, order, first_tile, num_tiles, keep, progress, stream);
    }
    if (is_one_chunk(in.num_boxes, in.classes != nullptr)) {
      auto* launch_chosen = in.classes != nullptr ? launch_whole<true, T> : launch_whole<false, T>;
      return launch_chosen(in, iou_threshold, workspace, keep, progress, stream);
    }
    WorkspaceLayout layout(workspace);
    const NmsWorkspace<T> work = nms_workspace<T>(in.num_boxes, layout);
    cudaError_t status = first_tile == 0 ? sort_boxes(in, work, order, keep, stream) : cudaSuccess;
    if (status == cudaSuccess && first_tile == 0 && uses_cell_order(in, iou_threshold))
      status = sort_by_cell(in.num_boxes, work, grid_blocks(in.num_boxes, kThreads, kMaxBlocks), stream);
    if (status != cudaSuccess) return status;
    auto* launch_chosen = in.classes != nullptr ? launch_tiles<true, T> : launch_tiles<false, T>;
    return launch_chosen(in, iou_threshold, work, order, first_tile, num_tiles, keep, progress, stream);
  };
  return in.box_type == Dtype::f64 ? run(double()) : run(float());
}

}  // namespace ssd_ops
