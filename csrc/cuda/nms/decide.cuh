// Which boxes of a chunk are kept. The plan is in chunk.cuh.
#pragma once

#include "cuda/common/scan.cuh"
#include "cuda/nms/chunk.cuh"

namespace ssd_ops {
namespace {

// Decides the boxes of a group as far as the states of the others allow, and repeats within the group until nothing
// changes. state_of(g) is the state of another group. All lanes of a warp call it.
template <typename T, typename StateOf>
__device__ GroupState decide_group(const Chunk<T>& chunk, int group, GroupState state, StateOf state_of) {
  const int lane = threadIdx.x % kWarpSize, num_tiles = chunk.num_tiles[group];
  const int64_t first_tile = static_cast<int64_t>(group) * chunk.groups;
  unsigned in_group = 0;  // of this lane's box: the boxes of its own group that suppress it
  bool is_suppressed = false, waits = false;
  for (int base = 0; base < num_tiles; base += kWarpSize) {
    const int columns = base + lane < num_tiles ? chunk.columns[first_tile + base + lane] : group;
    const GroupState others = columns != group ? state_of(columns) : GroupState{0, 0};
    const int tiles = num_tiles - base < kWarpSize ? num_tiles - base : kWarpSize;
#pragma unroll 8
    for (int k = 0; k < tiles; ++k) {
      const unsigned word = chunk.tiles[(first_tile + base + k) * kWarpSize + lane];
      const unsigned kept = __shfl_sync(kFullMask, others.kept, k),
                     undecided = __shfl_sync(kFullMask, others.undecided, k);
      is_suppressed = is_suppressed || (word & kept) != 0;
      waits = waits || (word & undecided) != 0;
      if (__shfl_sync(kFullMask, columns, k) == group) in_group = word;
    }
  }
  const unsigned bit = 1u << lane;
  unsigned previous;
  do {
    previous = state.undecided;
    is_suppressed = is_suppressed || (in_group & state.kept) != 0;
    const bool is_undecided = (previous & bit) != 0, is_kept = !is_suppressed && !waits && (in_group & previous) == 0;
    state.kept |= __ballot_sync(kFullMask, is_undecided && is_kept);
    state.undecided &= ~__ballot_sync(kFullMask, is_undecided && (is_suppressed || is_kept));
  } while (state.undecided != previous);
  return state;
}

// The state of a group, which another block may be changing, as a whole.
__device__ __forceinline__ GroupState load_state(const GroupState* state) {
  const unsigned long long bits = *reinterpret_cast<const volatile unsigned long long*>(state);
  return {static_cast<unsigned>(bits), static_cast<unsigned>(bits >> 32)};
}
__device__ __forceinline__ void store_state(GroupState* state, const GroupState& value) {
  *reinterpret_cast<volatile unsigned long long*>(state) =
      static_cast<unsigned long long>(value.undecided) << 32 | value.kept;
}

constexpr int kDecideWarps = 4;  // of a block: several blocks for each multiprocessor

// Decides a group as far as the warps of other groups do theirs; returns its state. All lanes of a warp call it.
template <typename T>
__device__ __forceinline__ GroupState decide_while_others_advance(const Chunk<T>& chunk, int group) {
  // Rounds without a decision before a warp gives up: the warp that it waits for may not be resident.
  constexpr int kPatience = 16;
  GroupState state = load_state(&chunk.states[group]);
  for (int idle = 0; state.undecided != 0 && idle < kPatience; ++idle) {
    const GroupState decided =
        decide_group(chunk, group, state, [&](int other) { return load_state(&chunk.states[other]); });
    if (decided.undecided == state.undecided) continue;
    state = decided;
    idle = 0;
    if (threadIdx.x % kWarpSize == 0) store_state(&chunk.states[group], state);
  }
  return state;
}

template <typename T>
__global__ void __launch_bounds__(kDecideWarps* kWarpSize, 8) decide_kernel(Chunk<T> chunk) {
  wait_for_previous_kernel();
  const int group = static_cast<int>(blockIdx.x) * kDecideWarps + static_cast<int>(threadIdx.x) / kWarpSize;
  if (group < chunk.groups) decide_while_others_advance(chunk, group);
}

// The states of all groups in shared memory.
struct ChunkStates {
  GroupState groups[kMaxGroups];
};

// Decides what decide_kernel has left, in rounds with a barrier; every round decides at least the undecided box that
// precedes all others. Returns the states of all groups. All threads of a block of kChunkThreads call it.
template <typename T>
__device__ const ChunkStates& decide_remaining(const Chunk<T>& chunk) {
  __shared__ ChunkStates rounds[2];
  const int warp = threadIdx.x / kWarpSize;
  bool undecided = false;
  for (int g = threadIdx.x; g < chunk.groups; g += kChunkThreads) {
    rounds[0].groups[g] = chunk.states[g];
    undecided = undecided || rounds[0].groups[g].undecided != 0;
  }
  int current = 0;
  for (bool more = __syncthreads_or(undecided) != 0; more; current ^= 1) {
    undecided = false;
    for (int g = warp; g < chunk.groups; g += kChunkWarps) {
      GroupState state = rounds[current].groups[g];
      if (state.undecided != 0)
        state = decide_group(chunk, g, state, [&](int other) { return rounds[current].groups[other]; });
      if (threadIdx.x % kWarpSize == 0) rounds[current ^ 1].groups[g] = state;
      undecided = undecided || state.undecided != 0;
    }
    more = __syncthreads_or(undecided) != 0;
  }
  return rounds[current];
}

// The kept boxes by their indices in the input.
struct KeptIndices {
  unsigned bits[kMaxGroups];
  int offsets[kMaxGroups];  // kept boxes before those of the word
};

// Fills `kept`, and returns the number of kept boxes. All threads of a block of kChunkThreads call it.
template <typename T>
__device__ int sort_kept(const Chunk<T>& chunk, const ChunkStates& states, KeptIndices& kept) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kMaxGroups) kept.bits[thread] = 0;
  __syncthreads();
  for (int i = thread; i < chunk.count; i += kChunkThreads) {
    if ((states.groups[i / kWarpSize].kept >> (i % kWarpSize) & 1) == 0) continue;
    const unsigned index = chunk.indices[i];
    atomicOr(&kept.bits[index / kWarpSize], 1u << (index % kWarpSize));
  }
  __syncthreads();
  int total;
  const int offset = block_exclusive_sum(thread < kMaxGroups ? __popc(kept.bits[thread]) : 0, &total);
  if (thread < kMaxGroups) kept.offsets[thread] = offset;
  __syncthreads();
  return total;
}

}  // namespace
}  // namespace ssd_ops
