// The next candidates of an image in order, a page at a time.
//
// Plan: a block reads the list and counts, in shared memory, how many candidates fall into each of kBins equal parts of
// the range in which the bound must lie; the part that holds it is the next range, until what stands before the bound
// fits into the page. The first range is that of the scores to be expected, so that one round is mostly enough; where
// it was wrong the search starts again with the range of all numbers. Then the block reads the list once more and sorts
// what stands before the bound. A thread has kAhead candidates on the way at once.
#pragma once

#include "cuda/common/block_scan.cuh"
#include "cuda/select/candidates.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

constexpr int kBins = 2048, kAhead = 8;

// Calls f(item) for each item; the kThreads threads of the block share them.
template <int kThreads, typename C, typename F>
__device__ __forceinline__ void each_item(const C* list, int64_t count, F&& f) {
  int64_t first = threadIdx.x;
  for (; first + (kAhead - 1) * kThreads < count; first += kAhead * kThreads) {
    C items[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) items[k] = list[first + k * kThreads];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) f(items[k]);
  }
  for (; first < count; first += kThreads) f(list[first]);
}

// Numbers from `low` on, in kBins parts of 1 << shift.
template <typename N>
struct Range {
  N low;
  int shift;

  // What lies above belongs to no part.
  __device__ __forceinline__ bool holds(N n) const { return n >= low && (n - low) >> shift < N(kBins); }
  __device__ __forceinline__ int part(N n) const { return static_cast<int>((n - low) >> shift); }
};

// The parts have 1 << least_shift numbers at least.
template <typename N>
__device__ Range<N> range_of(N low, N high, int least_shift) {
  int shift = least_shift;
  while (high > low && (high - low) >> shift >= N(kBins)) ++shift;
  return {low, shift};
}

// The parts of the first range do not divide equal heads. The bound: the numbers from `least` to it are those of the
// next page, room / 2 .. room of them or all that are left.
template <int kThreads, typename C, typename N = number_t<C>>
__device__ N page_bound(const C* list, int64_t count, N least, N best, N worst, int room) {
  constexpr int kTail = NumberOf<C>::kBits - 32, kEach = kBins / kThreads;
  constexpr N kMost = ~N(0) >> (8 * sizeof(N) - NumberOf<C>::kBits);
  __shared__ unsigned bins[kBins];
  __shared__ int64_t partial[kWarpSize], found_before, found_here;
  __shared__ int found_part;
  Range<N> range = range_of((best > least ? best : least) >> kTail << kTail, worst, kTail);
  const unsigned low_head = head<C>(range.low), head_shift = static_cast<unsigned>(range.shift - kTail);
  bool expected = true;  // the range is a guess, and what lies outside counts to its first or last part
  int64_t before = 0;    // numbers below the range
  for (;;) {
    for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = 0;
    __syncthreads();
    if (expected) {
      each_item<kThreads>(list, count, [&](const C& item) {
        const unsigned h = head<C>(number(item)), part = ((h > low_head ? h : low_head) - low_head) >> head_shift;
        if (number(item) >= least) atomicAdd(&bins[part < kBins ? part : kBins - 1], 1u);
      });
    } else {
      each_item<kThreads>(list, count, [&](const C& item) {
        if (range.holds(number(item))) atomicAdd(&bins[range.part(number(item))], 1u);
      });
    }
    __syncthreads();
    int64_t held = 0;
    for (int k = 0; k < kEach; ++k) held += bins[threadIdx.x * kEach + k];
    int64_t sum = before + block_sum_before(held, partial);
    if (before + block_sum(held, partial) <= room) return kMost;
    for (int k = 0; k < kEach; ++k) {
      const int64_t here = bins[threadIdx.x * kEach + k];
      if (sum < room / 2 && sum + here >= room / 2) {
        found_part = static_cast<int>(threadIdx.x) * kEach + k;
        found_before = sum;
        found_here = here;
      }
      sum += here;
    }
    __syncthreads();
    const bool is_last = expected && found_part == kBins - 1, is_first = expected && found_part == 0;
    const N from = range.low + (static_cast<N>(found_part) << range.shift), width = (N(1) << range.shift) - 1;
    const N to = is_last || width > kMost - from ? kMost : from + width;
    if (found_before + found_here <= room) return to;
    if (is_last || is_first) {
      range = range_of(least, kMost, 0);
    } else {
      before = found_before;
      range = range_of(from, to, 0);
    }
    expected = false;
    __syncthreads();  // all have read what the next round overwrites
  }
}

// Writes to `page`, which holds `room` items, the first of those of `list` that stand behind `after` (of all, without
// `after`) and not behind the number `limit`, sorted; returns how many there are. Fewer than room / 2 come only when
// nothing else is left. Most stand between `best` and `worst`. All threads of the block call it.
template <int kThreads, typename C>
__device__ int next_page(const C* list, int64_t count, const C* after, const C& best, const C& worst, C* page, int room,
                         number_t<C> limit) {
  using N = number_t<C>;
  __shared__ unsigned taken;
  const N least = after != nullptr ? number(*after) + 1 : N(0);
  N bound = limit;
  if (count > room) bound = page_bound<kThreads>(list, count, least, number(best), number(worst), room);
  if (bound > limit) bound = limit;
  if (bound < least) return 0;
  if (threadIdx.x == 0) taken = 0;
  __syncthreads();
  each_item<kThreads>(list, count, [&](const C& item) {
    if (number(item) - least <= bound - least) page[atomicAdd(&taken, 1u)] = item;
  });
  __syncthreads();
  const int found = static_cast<int>(taken);
  int size = 2;
  while (size < found) size *= 2;
  for (int i = found + threadIdx.x; i < size; i += blockDim.x) page[i] = last_candidate<C>();
  sort_shared(page, size);
  return found;
}

}  // namespace
}  // namespace ssd_ops
