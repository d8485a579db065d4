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
struct ListedGroups {
  int count;
  uint16_t groups[kMaxGroups];
};

// Fills the list, whose count is 0 before. All threads of the block call it.
template <typename T>
__device__ void list_groups(const Chunk<T>& chunk, const BoxRange& range, const Box<T>& rows, bool near_only,
                            ListedGroups& list) {
  const int end = (range.end + kWarpSize - 1) / kWarpSize;
#pragma unroll 1  // two at most
  for (int g = range.begin / kWarpSize + static_cast<int>(threadIdx.x); g < end; g += kThreads)
    if (!near_only || overlaps(chunk.bounds[g], rows))
      list.groups[atomicAdd(&list.count, 1)] = static_cast<uint16_t>(g);
  __syncthreads();
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    compare_listed_kernel(Chunk<T> chunk, PairThresholds<T> thresholds, bool near_only, T axis_threshold) {
  __shared__ KeyedColumns<T> columns_by_warp[kWarps];
  __shared__ ListedGroups list;
  __shared__ int num_tiles;
  __shared__ unsigned suppressible;
  wait_for_previous_kernel();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, group = static_cast<int>(blockIdx.x);
  const int i = group * kWarpSize + lane, last = chunk.count - 1;
  if (threadIdx.x == 0) {
    list.count = num_tiles = 0;
    suppressible = 0;
  }
  __syncthreads();
  const BoxRange range = has_classes ? chunk.ranges[group] : BoxRange{0, chunk.count};
  const KeyedRow<T> row = load_keyed_row<has_classes>(chunk, i <= last ? i : last);
  const SideRanges<T> sides = warp_ranges(i <= last, row.row.box);
  list_groups(chunk, range, sides.outer, near_only, list);
  KeyedColumns<T>& columns = columns_by_warp[warp];
  unsigned any = 0;
  const auto load = [&](int k) {
    const int column = k < list.count ? list.groups[k] * kWarpSize + lane : 0;
    return load_column<has_classes>(chunk, column <= last ? column : last);
  };
  LoadedColumn<T> next = load(warp);
  for (int k = warp; k < list.count; k += kWarps) {
    const LoadedColumn<T> loaded = next;
    next = load(k + kWarps);
    const int column = list.groups[k] * kWarpSize + lane;
    const bool in_range = column < range.end && column >= range.begin;
    const bool is_near = in_range && (!near_only || may_suppress_any(loaded.box, sides, axis_threshold));
    const unsigned near = __ballot_sync(kFullMask, is_near);
    if (near == 0) continue;
    columns.boxes.template set<has_classes>(lane, loaded.box, loaded.box_class);
    columns.keys[lane] = loaded.key;
    columns.indices[lane] = loaded.index;
    __syncwarp();
    const unsigned word = i <= last ? compare_columns<has_classes>(columns, near, row, thresholds) : 0;
    append_tile(chunk, group, list.groups[k], word, &num_tiles);
    any |= word;
    __syncwarp();  // all lanes are done with the columns
  }
  write_states(chunk, group, lane, any, num_tiles, suppressible);
}

}  // namespace
}  // namespace ssd_ops
