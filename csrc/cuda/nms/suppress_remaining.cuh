// The kept boxes of the previous tile suppress the boxes after them. The plan is in nms.cu.
#pragma once

#include "core/suppression.h"
#include "cuda/common/scan.cuh"
#include "cuda/nms/cell_order.cuh"

namespace ssd_ops {
namespace {

// Kept boxes that a thread tests before it branches: independent tests overlap, and a warp diverges less often.
constexpr int kPairsPerBranch = 4;

// The pairs are divided among box_blocks * kept_splits blocks: each has kThreads boxes at a time and 1 / kept_splits of
// the kept boxes.
struct SuppressShape {
  unsigned box_blocks, kept_splits;
};

// Kept boxes of the previous tile, a chunk of them in shared memory.
template <typename T>
struct KeptChunk {
  Box<T> boxes[kThreads + kPairsPerBranch];
  T areas[kThreads + kPairsPerBranch];
  int64_t classes[kThreads + kPairsPerBranch];
};

// A box that intersects no other.
template <typename T>
__device__ __forceinline__ Box<T> empty_box() {
  return {T(1), T(1), T(0), T(0)};
}

// Loads those kept boxes first .. first + kThreads - 1 (below `end`) that may suppress a box within `bounds`; returns
// their number.
template <bool has_classes, bool in_cell_order, typename T>
__device__ int load_kept(const NmsWorkspace<T>& work, KeptChunk<T>& kept, int first, int end, const Box<T>& bounds) {
  const int i = first + static_cast<int>(threadIdx.x);
  Box<T> box = empty_box<T>();
  if (i < end) box = work.tile_kept[i];
  int index = static_cast<int>(threadIdx.x), total = end - first < kThreads ? end - first : kThreads;
  bool loads = i < end;
  if (in_cell_order) {
    loads = loads && overlaps(box, bounds);
    index = block_exclusive_count(loads, &total);
  }
  if (loads) {
    kept.boxes[index] = box;
    kept.areas[index] = area(box);
    if (has_classes) kept.classes[index] = work.tile_kept_classes[i];
  }
  if (threadIdx.x < kPairsPerBranch) {  // padding; with a NaN area it has no IoU above a negative threshold either
    kept.boxes[total + threadIdx.x] = empty_box<T>();
    kept.areas[total + threadIdx.x] = T(NAN);
    if (has_classes) kept.classes[total + threadIdx.x] = 0;
  }
  __syncthreads();
  return total;
}

// Whether one of `count` kept boxes suppresses the box.
template <bool has_classes, typename T>
__device__ __forceinline__ bool any_suppresses(const KeptChunk<T>& kept, int count, const Box<T>& box, T box_area,
                                               int64_t box_class, const SuppressionThresholds<T>& thresholds) {
  for (int k = 0; k < count; k += kPairsPerBranch) {
    bool any = false;
#pragma unroll
    for (int j = k; j < k + kPairsPerBranch; ++j) {
      const T inter = intersection(kept.boxes[j], box);
      const bool may = may_suppress(inter, kept.areas[j] + box_area - inter, thresholds);
      any = any || (may && (!has_classes || kept.classes[j] == box_class));
    }
    for (int j = k; any && j < k + kPairsPerBranch; ++j) {
      if (has_classes && kept.classes[j] != box_class) continue;
      if (suppresses(kept.boxes[j], box, kept.areas[j], box_area, thresholds)) return true;
    }
  }
  return false;
}

// Marks the boxes as suppressed that a kept box of the previous tile suppresses. in_cell_order: boxes are in the order
// of cells, so that those of a block are near each other and most kept boxes are distant from all of them.
template <bool has_classes, bool in_cell_order, typename T>
__device__ void suppress_remaining(int64_t n, const NmsWorkspace<T>& work, const SuppressionThresholds<T>& thresholds,
                                   const SuppressShape& shape) {
  __shared__ KeptChunk<T> kept;
  const int num_kept = work.state->num_tile_kept, per_split = static_cast<int>(ceil_div(num_kept, shape.kept_splits));
  const int begin = static_cast<int>(blockIdx.x % shape.kept_splits) * per_split;
  const int end = begin + per_split < num_kept ? begin + per_split : num_kept;
  const int64_t tile_begin = work.state->tile_begin;
  for (int64_t base = static_cast<int64_t>(blockIdx.x / shape.kept_splits) * kThreads; begin < end && base < n;
       base += static_cast<int64_t>(shape.box_blocks) * kThreads) {
    if (!in_cell_order && base + kThreads <= tile_begin) continue;
    const int64_t i = base + threadIdx.x, rank = in_cell_order && i < n ? work.cell_ranks[i] : i;
    const unsigned bit = 1u << (rank % kWarpSize);
    // Other splits may be setting bits, so the load bypasses L1; a box that one has already suppressed is not tested.
    bool active = rank >= tile_begin && i < n && (__ldcg(&work.suppressed[rank / kWarpSize]) & bit) == 0;
    const bool was_active = active;
    const Box<T> box = active ? (in_cell_order ? work.cell_boxes[i] : work.boxes[rank]) : Box<T>{};
    const T box_area = area(box);
    const int64_t box_class = has_classes && active ? work.classes[rank] : 0;
    Box<T> bounds{};
    if (in_cell_order) bounds = block_bounds(active, box);
    for (int first = begin; first < end; first += kThreads) {
      if (!__syncthreads_or(active)) break;
      const int count = load_kept<has_classes, in_cell_order>(work, kept, first, end, bounds);
      if (active) active = !any_suppresses<has_classes>(kept, count, box, box_area, box_class, thresholds);
    }
    const bool newly_suppressed = was_active && !active;
    if (in_cell_order) {
      if (newly_suppressed) atomicOr(&work.suppressed[rank / kWarpSize], bit);
    } else {
      const unsigned bits = __ballot_sync(kFullMask, newly_suppressed);
      if (bits != 0 && threadIdx.x % kWarpSize == 0) atomicOr(&work.suppressed[rank / kWarpSize], bits);
    }
  }
}

}  // namespace
}  // namespace ssd_ops
