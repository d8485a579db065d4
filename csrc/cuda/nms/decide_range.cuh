// Comparing and deciding the boxes of a range. The plan is in ranges.cuh; compare_listed.cuh and decide.cuh have what
// is shared with whole_input.cuh.
#pragma once

#include "cuda/common/last_block.cuh"
#include "cuda/nms/ranges.cuh"

namespace ssd_ops {
namespace {

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    compare_range_kernel(Ranges<T> work, PairThresholds<T> thresholds, bool near_only, T axis_threshold) {
  __shared__ ComparedGroup<T, kMaxRangeGroups> shared;
  wait_for_previous_kernel();
  const Chunk<T> chunk = chunk_of_range(work);
  const int group = static_cast<int>(blockIdx.x);
  if (group >= num_groups(chunk)) return;
  const NumberRange own = has_classes ? work.group_numbers[group] : NumberRange{0, 0};
  const auto is_listed = [&](int g) { return !has_classes || overlaps(work.group_numbers[g], own); };
  const auto is_column = [&](int, const LoadedColumn<T>& column) {
    return !has_classes || contains(own, number_of_key(column.key));
  };
  const KeyedRow<T> row =
      load_keyed_row<has_classes>(chunk, group * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize);
  const unsigned near_columns =
      compare_with_listed<has_classes, true>(chunk, group, row.key != kNoKey, BoxRange{0, chunk.count}, row, thresholds,
                                             near_only, axis_threshold, shared, is_listed, is_column);
  if (threadIdx.x % kWarpSize == 0 && near_columns != 0) atomicAdd(&work.state->near_columns, near_columns);
  if (threadIdx.x == 0 && shared.num_tiles > chunk.groups) atomicOr(&work.state->overflows, 1u);
}

// Sets the bits of the kept boxes of a decided group. All lanes of a warp call it.
template <typename T>
__device__ __forceinline__ void mark_kept(const Ranges<T>& work, int group, unsigned kept) {
  const int lane = threadIdx.x % kWarpSize;
  const uint64_t key = work.chunk.keys[group * kWarpSize + lane];
  if ((kept >> lane & 1) == 0 || key == kNoKey) return;
  const unsigned rank = rank_of_key(key);
  atomicOr(&work.kept[rank / kWarpSize], 1u << (rank % kWarpSize));
}

// Decides what the warps have left, as decide_remaining(): every round decides at least the undecided box that precedes
// all others. All threads of the block call it.
template <typename T>
__device__ void decide_undecided(const Ranges<T>& work, const Chunk<T>& chunk) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  bool undecided = false;
  for (int g = static_cast<int>(threadIdx.x); g < num_groups(chunk); g += kDecideWarps * kWarpSize)
    undecided = undecided || load_state(&chunk.states[g]).undecided != 0;
  while (__syncthreads_or(undecided) != 0) {
    undecided = false;
    for (int g = warp; g < num_groups(chunk); g += kDecideWarps) {
      const GroupState before = load_state(&chunk.states[g]);
      if (before.undecided == 0) continue;
      const GroupState state =
          decide_group(chunk, g, before, [&](int other) { return load_state(&chunk.states[other]); });
      if (lane == 0) store_state(&chunk.states[g], state);
      if (state.undecided == 0) mark_kept(work, g, state.kept);
      undecided = undecided || state.undecided != 0;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kDecideWarps* kWarpSize, 8) decide_range_kernel(Ranges<T> work) {
  wait_for_previous_kernel();
  const Chunk<T> chunk = chunk_of_range(work);
  if (chunk.count == 0 || work.state->overflows != 0) return;
  const int group = static_cast<int>(blockIdx.x) * kDecideWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (group < num_groups(chunk)) {
    const GroupState state = decide_while_others_advance(chunk, group);
    if (state.undecided == 0) mark_kept(work, group, state.kept);
  }
  if (is_last_block(work.ticket)) decide_undecided(work, chunk);
}

}  // namespace
}  // namespace ssd_ops
