// The kept boxes of a range suppress the boxes after them; the next range. The plan is in ranges.cuh.
//
// Plan: a warp has 32 boxes of the curve. Its lanes test the bounds of the groups of the chunk, and the warp takes
// those that overlap the bounds of its active boxes, several at once, so that their loads overlap: of 754 groups, 38
// with 67 kept boxes that are near, for 100,000 uniform boxes. A block whose ranks are in the range also writes
// the indices of the kept ones to the result, after those that precede them. The last block chooses the next range.
#pragma once

#include "cuda/common/last_block.cuh"
#include "cuda/nms/ranges.cuh"

namespace ssd_ops {
namespace {

template <typename T>
constexpr int kGroupsInFlight = sizeof(T) == sizeof(float) ? 4 : 2;  // groups that a warp loads at once
template <typename T>
using NearColumns = Columns<T, kGroupsInFlight<T> * kWarpSize>;

// Whether one of the first columns suppresses the row.
template <bool has_classes, typename T>
__device__ bool any_column_suppresses(const NearColumns<T>& columns, int count, const Row<T>& row,
                                      const PairThresholds<T>& thresholds) {
  for (int first = 0; first < count; first += kWarpSize) {
    const int in_word = count - first < kWarpSize ? count - first : kWarpSize;
    Suspects suspects{0, 0};
#pragma unroll 4
    for (int k = 0; k < in_word; ++k) compare_pair<has_classes>(columns, first, k, row, thresholds, &suspects);
    if (suspects.sure != 0 || suppressing(columns, first, suspects, row, thresholds) != 0) return true;
  }
  return false;
}

// What a warp compares: 32 boxes, of which some are active.
template <typename T>
struct ActiveRows {
  Row<T> row;  // of this lane
  SideRanges<T> sides;
  NumberRange numbers;
};

// Loads those boxes of the chunk that are kept and may suppress a row: of up to kGroupsInFlight groups, number `base`
// plus the lowest bits of *listed, which are cleared. Returns their number. `kept` has the bits of group base + lane.
template <bool has_classes, typename T>
__device__ int load_near(const Ranges<T>& work, int base, unsigned* listed, unsigned kept, const ActiveRows<T>& rows,
                         bool near_only, T axis_threshold, NearColumns<T>& columns) {
  const int lane = threadIdx.x % kWarpSize;
  Box<T> loaded[kGroupsInFlight<T>];
  int from[kGroupsInFlight<T>], count = 0;
#pragma unroll
  for (int k = 0; k < kGroupsInFlight<T>; ++k) {
    from[k] = *listed != 0 ? __ffs(static_cast<int>(*listed)) - 1 : -1;
    *listed &= *listed - 1;
    loaded[k] = work.chunk.boxes[(base + (from[k] < 0 ? 0 : from[k])) * kWarpSize + lane];
  }
#pragma unroll
  for (int k = 0; k < kGroupsInFlight<T>; ++k) {
    if (from[k] < 0) break;
    const int column = (base + from[k]) * kWarpSize + lane;
    bool is_near = (__shfl_sync(kFullMask, kept, from[k]) >> lane & 1) != 0 &&
                   (!near_only || may_suppress_any(loaded[k], rows.sides, axis_threshold));
    if (has_classes && is_near) is_near = contains(rows.numbers, number_of_key(work.chunk.keys[column]));
    const unsigned near = __ballot_sync(kFullMask, is_near);
    if (is_near)
      columns.template set<has_classes>(count + bits_below_lane(near), loaded[k],
                                        has_classes ? work.chunk.classes[column] : 0);
    count += __popc(near);
  }
  __syncwarp();
  return count;
}

// Which of the 32 boxes of a warp that `active` has are still active. All lanes of the warp call it.
template <bool has_classes, typename T>
__device__ unsigned suppress_rows(const Ranges<T>& work, int position, unsigned active, NearColumns<T>& columns,
                                  const PairThresholds<T>& thresholds, bool near_only, T axis_threshold) {
  const int lane = threadIdx.x % kWarpSize, groups = work.state->num_rows / kWarpSize;
  bool is_active = (active >> lane & 1) != 0;
  const int i = is_active ? position : position - lane;
  const Box<T> box = work.boxes[i];
  const ActiveRows<T> rows{{box, area(box), has_classes ? work.classes[i] : 0},
                           warp_ranges(is_active, box),
                           has_classes ? number_range(is_active, work.numbers[i]) : NumberRange{0, 0}};
  for (int base = 0; base < groups; base += kWarpSize) {
    const int g = base + lane < groups ? base + lane : 0;
    const unsigned kept = base + lane < groups ? work.chunk.states[g].kept : 0;
    const bool is_listed = kept != 0 && (!near_only || overlaps(work.chunk.bounds[g], rows.sides.outer)) &&
                           (!has_classes || overlaps(work.group_numbers[g], rows.numbers));
    unsigned listed = __ballot_sync(kFullMask, is_listed);
    while (listed != 0) {
      const int count = load_near<has_classes>(work, base, &listed, kept, rows, near_only, axis_threshold, columns);
      is_active = is_active && !any_column_suppresses<has_classes>(columns, count, rows.row, thresholds);
      if (!__any_sync(kFullMask, is_active)) return 0;
      __syncwarp();  // all lanes are done with the columns
    }
  }
  return __ballot_sync(kFullMask, is_active);
}

// Writes the indices of the kept boxes with the ranks of this block, one rank per thread, if they are in the range. All
// threads of the block call it.
template <typename T>
__device__ void write_kept_of_range(const Ranges<T>& work, const RangeState& state, const int64_t* order,
                                    int64_t* keep) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int first = static_cast<int>(blockIdx.x) * kThreads, rank = first + static_cast<int>(threadIdx.x);
  if (first >= state.end || first + kThreads <= state.begin) return;
  int count = 0;
#pragma unroll 4
  for (int w = static_cast<int>(threadIdx.x); w < first / kWarpSize; w += kThreads) count += __popc(work.kept[w]);
  const int own = first / kWarpSize + lane;  // lanes 0 .. warp - 1: the words of the warps before
  const int preceding =
      block_sum(count) + warp_sum(lane < warp && own * kWarpSize < work.n ? __popc(work.kept[own]) : 0);
  const unsigned bits = rank - lane < work.n ? work.kept[rank / kWarpSize] : 0;
  if (rank >= state.begin && rank < state.end && (bits >> lane & 1) != 0)
    keep[preceding + bits_below_lane(bits)] = order[rank];
}

// The next range: ranks from the end of this one on, until enough of them are active. All threads of the last block
// call it.
template <typename T>
__device__ void choose_range(const Ranges<T>& work, const RangeState& state, NmsProgress* progress) {
  constexpr int kWordsPerThread = static_cast<int>(kMaxInRanges) / kWarpSize / kThreads;
  const int first = static_cast<int>(threadIdx.x) * kWordsPerThread, n = work.n;
  const int begin = state.overflows != 0 ? state.begin : state.end;
  unsigned active[kWordsPerThread];
  int num_kept = 0, num_active = 0;
#pragma unroll
  for (int k = 0; k < kWordsPerThread; ++k) {
    const int word = first + k, rank = word * kWarpSize;
    active[k] = rank < n ? ~__ldcg(&work.suppressed[word]) : 0;
    if (rank < n && n - rank < kWarpSize) active[k] &= (1u << (n - rank)) - 1;
    if (rank < begin) active[k] = begin - rank < kWarpSize ? active[k] & ~0u << (begin - rank) : 0;
    num_kept += rank < n ? __popc(work.kept[word]) : 0;
    num_active += __popc(active[k]);
  }
  // Small again if more than an eighth of all pairs of the chunk were near each other.
  const uint64_t pairs = static_cast<uint64_t>(state.num_chosen) * static_cast<unsigned>(state.num_chosen);
  const bool is_crowded = uint64_t(8) * kWarpSize * state.near_columns > pairs;
  const unsigned stays_small = state.stays_small | state.overflows;
  const int size = is_crowded || stays_small != 0 ? kSmallRange : kLargeRange;
  int total;
  const int preceding = block_exclusive_sum(num_active, &total);
  num_kept = block_sum(num_kept);
  if (threadIdx.x == 0) {
    *progress = {num_kept, total < size ? total : size};
    if (total <= size) *work.state = {begin, n, total, 0, 0, 0, stays_small};
  }
  if (total <= size || preceding >= size || preceding + num_active < size) return;
  int left = size - preceding, word = 0;  // the last box of the range is among those of this thread
  unsigned bits = 0;                      // the word that has it; before, left > the active boxes of a word
#pragma unroll
  for (int k = 0; k < kWordsPerThread; ++k) {
    if (bits != 0) continue;
    const int count = __popc(active[k]);
    if (count < left) {
      left -= count;
    } else {
      bits = active[k];
      word = first + k;
    }
  }
  for (; left > 1; --left) bits &= bits - 1;
  *work.state = {begin, word * kWarpSize + __ffs(static_cast<int>(bits)), size, 0, 0, 0, stays_small};
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    suppress_range_kernel(Ranges<T> work, PairThresholds<T> thresholds, bool near_only, T axis_threshold,
                          const int64_t* order, int64_t* keep, NmsProgress* progress) {
  __shared__ NearColumns<T> columns[kWarps];
  wait_for_previous_kernel();
  if (work.state->num_chosen == 0) return;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int position = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const unsigned word = position - lane < work.n ? work.active[position / kWarpSize] : 0;
  const bool follows = position < work.n && static_cast<int>(work.ranks[position]) >= work.state->end;
  const unsigned active = work.state->overflows == 0 ? word & __ballot_sync(kFullMask, follows) : 0;
  if (active != 0) {
    const unsigned left =
        suppress_rows<has_classes>(work, position, active, columns[warp], thresholds, near_only, axis_threshold);
    const unsigned suppressed = active & ~left;
    if ((suppressed >> lane & 1) != 0) {
      const unsigned rank = work.ranks[position];  // again, rather than in a register
      atomicOr(&work.suppressed[rank / kWarpSize], 1u << (rank % kWarpSize));
    }
    if (lane == 0 && suppressed != 0) work.active[position / kWarpSize] = word & ~suppressed;
  }
  const RangeState state = *work.state;
  write_kept_of_range(work, state, order, keep);
  if (is_last_block(work.ticket)) choose_range(work, state, progress);
}

}  // namespace
}  // namespace ssd_ops
