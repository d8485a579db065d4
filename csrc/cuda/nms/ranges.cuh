// More than kMaxChunk and up to kMaxInRanges boxes, in place of the tiles of nms.cu: what the kernels share.
//
// Plan: torch sorts the scores, and the kernels of order_all.cuh write the boxes once along a Hilbert curve, as
// order_chunk.cuh does for fewer boxes. Then range after range, the next ranks with kSmallRange or kLargeRange active
// boxes are resolved as chunk.cuh says, in four launches: collect_kernel writes the active boxes of the range to
// the chunk, in the order of the curve; compare_range_kernel compares those that are near each other; with
// decide_range_kernel, one warp decides 32 of them; suppress_range_kernel compares the boxes that are left with the
// kept ones near them, writes the indices of those, and chooses the next range.
//
// The first range is small, so that a crowd of boxes is not compared with itself: a few are kept, and these suppress
// the rest. The next are small, too, as long as many pairs are near each other. A group of rows has capacity for as
// many tiles as a small range has groups; if that does not suffice for a larger one, nothing is decided, and it and all
// ranges after it are small. As in nms.cu, launches that find no box left return, and the host checks after some
// ranges.
#pragma once

#include "cuda/common/unmeasured.h"
#include "cuda/nms/compare_listed.cuh"
#include "cuda/nms/decide.cuh"
#include "cuda/nms/order_chunk.cuh"

namespace ssd_ops {

constexpr int kCollectBlocks = 32;  // each fills groups of its own, the last one in part
constexpr int kSmallRange = static_cast<int>(kMaxFew), kLargeRange = 23552;  // active boxes of a range, but the last
constexpr int kMaxRangeGroups = 768, kGroupTiles = 96;                       // groups of the chunk, tiles of each
static_assert(kLargeRange + kCollectBlocks * (kWarpSize - 1) <= kMaxRangeGroups * kWarpSize);
static_assert(kSmallRange + kCollectBlocks * (kWarpSize - 1) <= kGroupTiles * kWarpSize);
constexpr int64_t kRangesPerCheck = 3;

inline bool uses_ranges(int64_t num_boxes) {
  return uses_unmeasured_kernels() && num_boxes > kMaxChunk && num_boxes <= kMaxInRanges;
}

namespace {

struct RangeState {
  int begin, end;         // the ranks of the range
  int num_chosen;         // its active boxes; 0 when no box is left
  int num_rows;           // boxes of the chunk, with those that fill groups
  unsigned near_columns;  // over its groups of rows: boxes that are near the group
  unsigned overflows;     // whether a group has more tiles than kGroupTiles
  unsigned stays_small;   // whether a range before this one had
};

// Numbers of classes, from `low` to `high`.
struct NumberRange {
  unsigned low, high;
};

// A box among those of its cell.
struct CellPosition {
  unsigned cell, index;
};

template <typename T>
struct Ranges {
  int n;
  Box<T>* boxes;                // [n] along the curve
  unsigned* ranks;              // [n]: the ranks of these boxes
  int64_t* classes;             // [n]; with classes only, as the next
  uint16_t* numbers;            // [n]: the numbers of the classes
  unsigned* active;             // a bit for each box along the curve: not suppressed so far
  unsigned *suppressed, *kept;  // a bit for each rank
  RangeState* state;
  unsigned* ticket;  // see is_last_block
  // Boxes of the range along the curve, with kGroupTiles as `groups`. The key of a box is chunk_key(); a box that
  // fills a group has kNoKey.
  Chunk<T> chunk;
  NumberRange* group_numbers;  // [kMaxRangeGroups]: of the classes of each group of the chunk
  // For the kernels of order_all.cuh:
  Grid* grid;
  ClassNumbers* class_numbers;
  unsigned* cell_counts;    // [kNumCells]
  CellPosition* positions;  // [n] by rank
};

template <typename T>
inline Chunk<T> range_chunk_workspace(bool has_classes, WorkspaceLayout& layout) {
  constexpr int64_t rows = kMaxRangeGroups * kWarpSize, tiles = kMaxRangeGroups * kGroupTiles;
  Chunk<T> chunk{};
  chunk.groups = kGroupTiles;
  chunk.boxes = layout.array<Box<T>>(rows);
  chunk.keys = layout.array<uint64_t>(rows);
  chunk.indices = layout.array<unsigned>(rows);
  chunk.states = layout.array<GroupState>(kMaxRangeGroups);
  chunk.num_tiles = layout.array<int>(kMaxRangeGroups);
  chunk.columns = layout.array<uint16_t>(tiles);
  chunk.tiles = layout.array<unsigned>(tiles * kWarpSize);
  chunk.bounds = layout.array<Box<T>>(kMaxRangeGroups);
  chunk.classes = layout.array<int64_t>(has_classes ? rows : 0);
  return chunk;
}

template <typename T>
inline Ranges<T> ranges_workspace(int64_t n, bool has_classes, WorkspaceLayout& layout) {
  const int64_t words = ceil_div(n, kWarpSize), with_classes = has_classes ? n : 0;
  Ranges<T> work{};
  work.n = static_cast<int>(n);
  work.boxes = layout.array<Box<T>>(n);
  work.ranks = layout.array<unsigned>(n);
  work.classes = layout.array<int64_t>(with_classes);
  work.numbers = layout.array<uint16_t>(with_classes);
  work.active = layout.array<unsigned>(words);
  work.suppressed = layout.array<unsigned>(words);
  work.kept = layout.array<unsigned>(words);
  work.state = layout.array<RangeState>(1);
  work.ticket = layout.array<unsigned>(1);
  work.chunk = range_chunk_workspace<T>(has_classes, layout);
  work.group_numbers = layout.array<NumberRange>(kMaxRangeGroups);
  work.grid = layout.array<Grid>(1);
  work.class_numbers = layout.array<ClassNumbers>(1);
  work.cell_counts = layout.array<unsigned>(kNumCells);
  work.positions = layout.array<CellPosition>(n);
  return work;
}

// A lower rank precedes; the number of the class follows.
constexpr int kNumberBits = 16;
constexpr uint64_t kNoKey = ~uint64_t(0);
__device__ __forceinline__ uint64_t chunk_key(unsigned rank, unsigned number) {
  return static_cast<uint64_t>(rank) << kNumberBits | number;
}
__device__ __forceinline__ unsigned number_of_key(uint64_t key) {
  return static_cast<unsigned>(key) & ((1u << kNumberBits) - 1);
}
__device__ __forceinline__ unsigned rank_of_key(uint64_t key) { return static_cast<unsigned>(key >> kNumberBits); }

// The chunk with its number of boxes.
template <typename T>
__device__ __forceinline__ Chunk<T> chunk_of_range(const Ranges<T>& work) {
  Chunk<T> chunk = work.chunk;
  chunk.count = work.state->num_rows;
  return chunk;
}
template <typename T>
__device__ __forceinline__ int num_groups(const Chunk<T>& chunk) {
  return chunk.count / kWarpSize;
}

// Over the lanes of the warp whose `flag` is set.
__device__ __forceinline__ NumberRange number_range(bool flag, unsigned number) {
  return {~warp_max(flag ? ~number : 0), warp_max(flag ? number : 0)};
}

__device__ __forceinline__ bool overlaps(const NumberRange& a, const NumberRange& b) {
  return a.low <= b.high && b.low <= a.high;
}
__device__ __forceinline__ bool contains(const NumberRange& range, unsigned number) {
  return number >= range.low && number <= range.high;
}

}  // namespace
}  // namespace ssd_ops
