// Which boxes of a chunk suppress which. The plan is in chunk.cuh.
#pragma once

#include "cuda/nms/chunk.cuh"
#include "cuda/nms/compare.cuh"
#include "cuda/nms/near.cuh"

namespace ssd_ops {
namespace {

// A row, and what decides which boxes precede it.
template <typename T>
struct KeyedRow {
  Row<T> row;
  uint64_t key;
  unsigned index;
};

template <bool has_classes, typename T>
__device__ __forceinline__ KeyedRow<T> load_keyed_row(const Chunk<T>& chunk, int i) {
  const Box<T> box = chunk.boxes[i];
  return {{box, area(box), has_classes ? chunk.classes[i] : 0}, chunk.keys[i], chunk.indices[i]};
}

// Columns with what decides which rows they precede.
template <typename T>
struct KeyedColumns {
  Columns<T, kWarpSize> boxes;
  uint64_t keys[kWarpSize];
  unsigned indices[kWarpSize];

  __device__ __forceinline__ void load(const Chunk<T>& chunk, int to, int i, const Box<T>& box) {
    boxes.template set<false>(to, box, 0);
    keys[to] = chunk.keys[i];
    indices[to] = chunk.indices[i];
  }
};

// Compares a row with those columns whose bits are set in `near`; returns the bits of those that precede and suppress
// it.
template <bool has_classes, typename T>
__device__ unsigned compare_columns(const KeyedColumns<T>& columns, unsigned near, const KeyedRow<T>& row,
                                    const PairThresholds<T>& thresholds) {
  Suspects suspects{0, 0};
  unsigned precedes = 0;
  for (; near != 0; near &= near - 1) {
    const int k = __ffs(static_cast<int>(near)) - 1;
    compare_pair<has_classes>(columns.boxes, 0, k, row.row, thresholds, &suspects);
    precedes |= (columns.keys[k] < row.key + (columns.indices[k] < row.index ? 1 : 0) ? 1u : 0u) << k;
  }
  return suppressing(columns.boxes, 0, {suspects.may & precedes, suspects.sure & precedes}, row.row, thresholds);
}

// Appends a tile, unless it is 0; `word` is that of this lane's row. Returns whether there was capacity for it. All
// lanes of a warp call it.
template <bool has_limit = false, typename T>
__device__ __forceinline__ bool append_tile(const Chunk<T>& chunk, int group, int columns, unsigned word,
                                            int* num_tiles) {
  if (!__any_sync(kFullMask, word != 0)) return true;
  const int lane = threadIdx.x % kWarpSize;
  int tile = 0;
  if (lane == 0) tile = atomicAdd(num_tiles, 1);
  tile = __shfl_sync(kFullMask, tile, 0);
  if (has_limit && tile >= chunk.groups) return false;
  tile += group * chunk.groups;
  if (lane == 0) chunk.columns[tile] = static_cast<uint16_t>(columns);
  chunk.tiles[static_cast<int64_t>(tile) * kWarpSize + lane] = word;
  return true;
}

// Compares the rows of a group with those columns that the warps of a block share; returns the word of this lane's row
// or'ed over all. near_only: boxes that do not overlap do not suppress each other, see may_suppress_any().
template <typename T>
__device__ unsigned compare_group(const Chunk<T>& chunk, int group, KeyedColumns<T>& columns,
                                  const PairThresholds<T>& thresholds, bool near_only, T axis_threshold,
                                  int* num_tiles) {
  constexpr int kInFlight = sizeof(T) == sizeof(float) ? 4 : 2;  // groups of columns that are loaded at once
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, i = group * kWarpSize + lane;
  const int count = chunk.count;
  const bool valid = i < count;
  const KeyedRow<T> row = load_keyed_row<false>(chunk, valid ? i : count - 1);
  const SideRanges<T> ranges = warp_ranges(valid, row.row.box);
  unsigned any = 0;
  for (int first = warp * kWarpSize; first < count; first += kInFlight * kThreads) {
    Box<T> loaded[kInFlight];
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const int column = first + k * kThreads + lane;
      loaded[k] = chunk.boxes[column < count ? column : 0];
    }
#pragma unroll
    for (int k = 0; k < kInFlight; ++k) {
      const int column = first + k * kThreads + lane;
      const bool is_near = column < count && (!near_only || may_suppress_any(loaded[k], ranges, axis_threshold));
      const unsigned near = __ballot_sync(kFullMask, is_near);
      if (near == 0) continue;
      if (is_near) columns.load(chunk, lane, column, loaded[k]);
      __syncwarp();
      const unsigned word = valid ? compare_columns<false>(columns, near, row, thresholds) : 0;
      append_tile(chunk, group, (column - lane) / kWarpSize, word, num_tiles);
      any |= word;
      __syncwarp();  // all lanes are done with the columns
    }
  }
  return any;
}

// Writes the states of a group of rows: boxes that no other box may suppress are kept at once. `any` is the word of
// this lane's row, or'ed over the columns of its warp; `suppressible` is 0 before. All threads of the block call it.
template <typename T>
__device__ __forceinline__ void write_states(const Chunk<T>& chunk, int group, int lane, unsigned any,
                                             const int& num_tiles, unsigned& suppressible) {
  const unsigned bits = __ballot_sync(kFullMask, any != 0),
                 valid_rows = __ballot_sync(kFullMask, group * kWarpSize + lane < chunk.count);
  if (lane == 0 && bits != 0) atomicOr(&suppressible, bits);
  __syncthreads();
  if (threadIdx.x != 0) return;
  chunk.num_tiles[group] = num_tiles;
  chunk.states[group] = {valid_rows & ~suppressible, suppressible};
}

// One block for each group of rows.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    compare_near_kernel(Chunk<T> chunk, PairThresholds<T> thresholds, bool near_only, T axis_threshold) {
  __shared__ KeyedColumns<T> columns[kWarps];
  __shared__ int num_tiles;
  __shared__ unsigned suppressible;
  wait_for_previous_kernel();
  const int lane = threadIdx.x % kWarpSize, group = static_cast<int>(blockIdx.x);
  if (threadIdx.x == 0) {
    num_tiles = 0;
    suppressible = 0;
  }
  __syncthreads();
  const unsigned word =
      compare_group(chunk, group, columns[threadIdx.x / kWarpSize], thresholds, near_only, axis_threshold, &num_tiles);
  write_states(chunk, group, lane, word, num_tiles, suppressible);
}

}  // namespace
}  // namespace ssd_ops
