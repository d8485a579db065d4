// Which boxes of a chunk suppress which, for boxes in the order of order_chunk.cuh: compares what compare_near.cuh
// does.
//
// Plan: one block for each group of rows. Its threads test the bounds of the other groups, and list those that overlap
// the bounds of the rows: 20 to 30 of 313 for 10,000 uniform boxes. A warp takes every eighth of the list, and loads
// the next columns while it compares.
#pragma once

#include "cuda/nms/compare_near.cuh"

namespace ssd_ops {
namespace {

// What a lane loads of a column.
template <typename T>
struct LoadedColumn {
  Box<T> box;
  uint64_t key;
  unsigned index;
  int64_t box_class;
};

template <bool has_classes, typename T>
__device__ __forceinline__ LoadedColumn<T> load_column(const Chunk<T>& chunk, int i) {
  return {chunk.boxes[i], chunk.keys[i], chunk.indices[i], has_classes ? chunk.classes[i] : 0};
}

// The groups of columns that may be near a group of rows.
template <int capacity>
struct ListedGroups {
  int count;
  uint16_t groups[capacity];
};

// What a block of threads shares.
template <typename T, int capacity>
struct ComparedGroup {
  KeyedColumns<T> columns_by_warp[kWarps];
  ListedGroups<capacity> list;
  int num_tiles;
  unsigned suppressible;
};

// Fills the list, whose count is 0 before, with the groups of a range of boxes that overlap the bounds of the rows and
// for which is_listed(group) is true. All threads of the block call it.
template <int capacity, typename T, typename IsListed>
__device__ void list_groups(const Chunk<T>& chunk, const BoxRange& range, const Box<T>& rows, bool near_only,
                            ListedGroups<capacity>& list, IsListed is_listed) {
  const int end = (range.end + kWarpSize - 1) / kWarpSize;
#pragma unroll 1  // few
  for (int g = range.begin / kWarpSize + static_cast<int>(threadIdx.x); g < end; g += kThreads)
    if ((!near_only || overlaps(chunk.bounds[g], rows)) && is_listed(g))
      list.groups[atomicAdd(&list.count, 1)] = static_cast<uint16_t>(g);
  __syncthreads();
}

// Compares a group of rows with the groups of the range that may be near it, except with columns for which
// is_column(index, column) is false, and writes its tiles and its state; a warp stops where there is no capacity for a
// tile. Returns the number of columns of this warp that are near the rows. is_row: whether this lane's row is a box.
// All threads of a block call it.
template <bool has_classes, bool has_limit, int capacity, typename T, typename IsListed, typename IsColumn>
__device__ __forceinline__ unsigned compare_with_listed(const Chunk<T>& chunk, int group, bool is_row,
                                                        const BoxRange& range, const KeyedRow<T>& row,
                                                        const PairThresholds<T>& thresholds, bool near_only,
                                                        T axis_threshold, ComparedGroup<T, capacity>& shared,
                                                        IsListed is_listed, IsColumn is_column) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, last = chunk.count - 1;
  if (threadIdx.x == 0) {
    shared.list.count = shared.num_tiles = 0;
    shared.suppressible = 0;
  }
  __syncthreads();
  const SideRanges<T> sides = warp_ranges(is_row, row.row.box);
  const ListedGroups<capacity>& list = shared.list;
  list_groups(chunk, range, sides.outer, near_only, shared.list, is_listed);
  KeyedColumns<T>& columns = shared.columns_by_warp[warp];
  unsigned any = 0, near_columns = 0;
  const auto load = [&](int k) {
    const int column = k < list.count ? list.groups[k] * kWarpSize + lane : 0;
    return load_column<has_classes>(chunk, column <= last ? column : last);
  };
  LoadedColumn<T> next = load(warp);
  for (int k = warp; k < list.count; k += kWarps) {
    const LoadedColumn<T> loaded = next;
    next = load(k + kWarps);
    const int column = list.groups[k] * kWarpSize + lane;
    const bool is_near =
        is_column(column, loaded) && (!near_only || may_suppress_any(loaded.box, sides, axis_threshold));
    const unsigned near = __ballot_sync(kFullMask, is_near);
    if (near == 0) continue;
    near_columns += __popc(near);
    columns.boxes.template set<has_classes>(lane, loaded.box, loaded.box_class);
    columns.keys[lane] = loaded.key;
    columns.indices[lane] = loaded.index;
    __syncwarp();
    const unsigned word = is_row ? compare_columns<has_classes>(columns, near, row, thresholds) : 0;
    if (!append_tile<has_limit>(chunk, group, list.groups[k], word, &shared.num_tiles)) break;
    any |= word;
    __syncwarp();  // all lanes are done with the columns
  }
  write_states(chunk, group, lane, any, shared.num_tiles, shared.suppressible);
  return near_columns;
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    compare_listed_kernel(Chunk<T> chunk, PairThresholds<T> thresholds, bool near_only, T axis_threshold) {
  __shared__ ComparedGroup<T, kMaxGroups> shared;
  wait_for_previous_kernel();
  const int group = static_cast<int>(blockIdx.x), last = chunk.count - 1;
  const int i = group * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize;
  const BoxRange range = has_classes ? chunk.ranges[group] : BoxRange{0, chunk.count};
  const KeyedRow<T> row = load_keyed_row<has_classes>(chunk, i <= last ? i : last);
  compare_with_listed<has_classes, false>(
      chunk, group, i <= last, range, row, thresholds, near_only, axis_threshold, shared, [](int) { return true; },
      [&](int column, const LoadedColumn<T>&) { return column < range.end && column >= range.begin; });
}

}  // namespace
}  // namespace ssd_ops
