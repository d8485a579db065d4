// The next candidates of an image in sorted order, a chunk at a time.
//
// Plan: first a block finds the last sort key of the chunk, so that the chunk has between capacity / 2 and `capacity`
// candidates. It reads the list and counts the candidates in kBins equal bins of a range of sort keys, in shared
// memory. If the candidates up to the end of the bin in which the count reaches capacity / 2 fit into the chunk, that
// end is the last key; else the bin becomes the range of the next pass. The first range is that of the expected scores,
// so that one pass usually suffices; if no such bin is within it, the search restarts with the range of all sort keys.
// Then the block reads the list once more for the candidates up to the last key (sorted_chunk.cuh). A thread issues
// kLoadsInFlight loads before it uses the first.
//
// The functions here take the candidates from any object with a for_each() like that of CandidateList.
#pragma once

#include "cuda/common/scan.cuh"
#include "cuda/select/candidates.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

constexpr int kBins = 2048, kLoadsInFlight = 8;

template <typename C>
struct CandidateList {
  const C* items;
  int64_t count;

  // Calls f(item) for each item; the kThreads threads of the block divide them.
  template <int kThreads, typename F>
  __device__ __forceinline__ void for_each(F&& f) const {
    int64_t i = threadIdx.x;
    for (; i + (kLoadsInFlight - 1) * kThreads < count; i += kLoadsInFlight * kThreads) {
      C loaded[kLoadsInFlight];
#pragma unroll
      for (int k = 0; k < kLoadsInFlight; ++k) loaded[k] = items[i + k * kThreads];
#pragma unroll
      for (int k = 0; k < kLoadsInFlight; ++k) f(loaded[k]);
    }
    for (; i < count; i += kThreads) f(items[i]);
  }
};

// Sort keys from `low` on, in kBins bins of 1 << shift keys.
template <typename Key>
struct KeyRange {
  Key low;
  int shift;

  __device__ __forceinline__ bool contains(Key key) const { return key >= low && (key - low) >> shift < Key(kBins); }
  __device__ __forceinline__ int bin(Key key) const { return static_cast<int>((key - low) >> shift); }
};

// The smallest range that contains low .. high, with bins of at least 1 << min_shift keys.
template <typename Key>
__device__ KeyRange<Key> range_of(Key low, Key high, int min_shift) {
  int shift = min_shift;
  while (high > low && (high - low) >> shift >= Key(kBins)) ++shift;
  return {low, shift};
}

// The bin in which the number of candidates reaches a target: its index, and the candidates before it and in it.
struct FoundBin {
  int64_t bin, before, count;
};

// Counts the sort keys from `first` on in the bins of the expected range, by their high bits; keys outside the range
// count to the first or the last bin.
template <int kThreads, typename C, typename Source, typename Key>
__device__ void count_in_expected_range(const Source& source, Key first, const KeyRange<Key>& range, unsigned* bins) {
  constexpr int kLowBits = CandidateKeyTraits<C>::kBits - 32;
  const unsigned low = high_bits<C>(range.low), shift = static_cast<unsigned>(range.shift - kLowBits);
  source.template for_each<kThreads>([&](const C& item) {
    const unsigned high = high_bits<C>(sort_key(item)), bin = ((high > low ? high : low) - low) >> shift;
    if (sort_key(item) >= first) atomicAdd(&bins[bin < kBins ? bin : kBins - 1], 1u);
  });
}

// Finds the bin in which the sum of `before` and the counts of the bins reaches `target`; returns false if the total is
// at most `capacity`.
template <int kThreads>
__device__ bool find_bin(const unsigned* bins, int64_t before, int64_t target, int64_t capacity, FoundBin* result) {
  constexpr int kPerThread = kBins / kThreads;
  __shared__ FoundBin found;
  int64_t own = 0, total;
  for (int k = 0; k < kPerThread; ++k) own += bins[threadIdx.x * kPerThread + k];
  int64_t sum = before + block_exclusive_sum(own, &total);
  if (before + total <= capacity) return false;
  for (int k = 0; k < kPerThread; ++k) {
    const int64_t bin = static_cast<int64_t>(threadIdx.x) * kPerThread + k;
    const int64_t in_bin = bins[bin];
    if (sum < target && sum + in_bin >= target) found = {bin, sum, in_bin};
    sum += in_bin;
  }
  __syncthreads();
  *result = found;
  return true;
}

// The highest sort key.
template <typename C>
constexpr candidate_key_t<C> kMaxKey =
    ~candidate_key_t<C>(0) >> (8 * sizeof(candidate_key_t<C>) - CandidateKeyTraits<C>::kBits);

// The last key of the next chunk, which begins with `first`: between capacity / 2 and `capacity` candidates, or all
// that are left. Most sort keys are expected between `expected_first` and `expected_last`. `bins` has kBins numbers in
// shared memory. All threads of the block call it. It is not inlined: most images need no call, and their code is
// short.
template <int kThreads, typename C, typename Source, typename Key = candidate_key_t<C>>
__device__ __noinline__ Key find_last_key(Source source, Key first, Key expected_first, Key expected_last, int capacity,
                                          unsigned* bins) {
  constexpr int kLowBits = CandidateKeyTraits<C>::kBits - 32;
  // The bins of the expected range do not split equal high bits.
  KeyRange<Key> range =
      range_of((expected_first > first ? expected_first : first) >> kLowBits << kLowBits, expected_last, kLowBits);
  bool expected = true;
  int64_t before = 0;  // sort keys below the range
  for (;;) {
    for (int b = threadIdx.x; b < kBins; b += kThreads) bins[b] = 0;
    __syncthreads();
    if (expected) {
      count_in_expected_range<kThreads, C>(source, first, range, bins);
    } else {
      source.template for_each<kThreads>([&](const C& item) {
        if (range.contains(sort_key(item))) atomicAdd(&bins[range.bin(sort_key(item))], 1u);
      });
    }
    __syncthreads();
    FoundBin found;
    if (!find_bin<kThreads>(bins, before, capacity / 2, capacity, &found)) return kMaxKey<C>;
    const bool is_last = expected && found.bin == kBins - 1, is_first = expected && found.bin == 0;
    const Key low = range.low + (static_cast<Key>(found.bin) << range.shift), width = (Key(1) << range.shift) - 1;
    const Key high = is_last || width > kMaxKey<C> - low ? kMaxKey<C> : low + width;
    if (found.before + found.count <= capacity) return high;
    if (is_last || is_first) {
      range = range_of(first, kMaxKey<C>, 0);  // the expectation was wrong
    } else {
      before = found.before;
      range = range_of(low, high, 0);
    }
    expected = false;
    __syncthreads();  // all threads have read what the next pass overwrites
  }
}

// Writes the candidates from `first` to `last`, in any order; returns their number. All threads of the block call it.
template <int kThreads, typename C, typename Source, typename Key = candidate_key_t<C>>
__device__ int gather(const Source& source, Key first, Key last, C* items) {
  __shared__ unsigned num_written;
  if (threadIdx.x == 0) num_written = 0;
  __syncthreads();
  source.template for_each<kThreads>([&](const C& item) {
    // first <= key <= last in one comparison: unsigned, so that keys below `first` wrap around to large numbers.
    if (sort_key(item) - first <= last - first) items[atomicAdd(&num_written, 1u)] = item;
  });
  __syncthreads();
  const int count = static_cast<int>(num_written);
  __syncthreads();  // it may be written again
  return count;
}

}  // namespace
}  // namespace ssd_ops
