// Writes the active boxes of a range to the chunk. The plan is in ranges.cuh.
//
// Plan: a block has the same number of consecutive boxes of the curve as every other. It lists those that are active
// and of the range in shared memory, and reserves rows of the chunk for whole groups; then a warp writes a group. The
// last group is filled with boxes of NaN, which suppress none and are suppressed by none.
#pragma once

#include "cuda/nms/ranges.cuh"

namespace ssd_ops {
namespace {

constexpr int kCollectPerThread = static_cast<int>(kMaxInRanges) / (kCollectBlocks * kChunkThreads);

// Boxes `first` + chosen[0 .. count - 1] of the curve.
struct ChosenBoxes {
  int first, count;
  uint16_t chosen[kCollectPerThread * kChunkThreads];
};

// Lists the boxes of the block with ranks from `begin` to `end` - 1. All threads of the block call it.
template <typename T>
__device__ void choose_boxes(const Ranges<T>& work, int begin, int end, ChosenBoxes& list) {
  const int per_block = static_cast<int>(round_up(ceil_div(work.n, kCollectBlocks), kWarpSize));
  const int thread = static_cast<int>(threadIdx.x), first = static_cast<int>(blockIdx.x) * per_block;
  unsigned words[kCollectPerThread];
  int ranks[kCollectPerThread];
#pragma unroll
  for (int k = 0; k < kCollectPerThread; ++k) {
    const int i = k * kChunkThreads + thread, position = first + i;
    const bool valid = i < per_block && position < work.n;
    words[k] = i < per_block && position - position % kWarpSize < work.n ? work.active[position / kWarpSize] : 0;
    ranks[k] = valid ? static_cast<int>(work.ranks[position]) : end;
  }
  int total = 0;
#pragma unroll
  for (int k = 0; k < kCollectPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    const bool is_chosen = (words[k] >> (thread % kWarpSize) & 1) != 0 && ranks[k] >= begin && ranks[k] < end;
    int count;
    const int index = total + block_exclusive_count(is_chosen, &count);
    if (is_chosen) list.chosen[index] = static_cast<uint16_t>(i);
    total += count;
  }
  if (thread == 0) {
    list.first = first;
    list.count = total;
  }
  __syncthreads();
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1) collect_kernel(Ranges<T> work) {
  __shared__ ChosenBoxes list;
  __shared__ int begin;
  wait_for_previous_kernel();
  if (work.state->num_chosen == 0) return;
  choose_boxes(work, work.state->begin, work.state->end, list);
  if (list.count == 0) return;
  const int rows = static_cast<int>(round_up(list.count, kWarpSize)), lane = static_cast<int>(threadIdx.x) % kWarpSize;
  if (threadIdx.x == 0) begin = atomicAdd(&work.state->num_rows, rows);
  __syncthreads();
  const Box<T> nan{T(NAN), T(NAN), T(NAN), T(NAN)}, none = empty_bounds<T>();
  for (int i = static_cast<int>(threadIdx.x); i < rows; i += kChunkThreads) {
    const bool valid = i < list.count;
    const int from = list.first + list.chosen[valid ? i : 0], to = begin + i, group = to / kWarpSize;
    const Box<T> box = valid ? work.boxes[from] : nan;
    const unsigned rank = work.ranks[from], number = has_classes ? work.numbers[from] : 0;
    const Box<T> bounds = warp_bounds(enclose(none, box));
    work.chunk.boxes[to] = box;
    work.chunk.keys[to] = valid ? chunk_key(rank, number) : kNoKey;
    work.chunk.indices[to] = rank;
    if (lane == 0) work.chunk.bounds[group] = bounds;
    if constexpr (has_classes) {
      work.chunk.classes[to] = work.classes[from];
      const NumberRange numbers = number_range(valid, number);
      if (lane == 0) work.group_numbers[group] = numbers;
    }
  }
}

}  // namespace
}  // namespace ssd_ops
