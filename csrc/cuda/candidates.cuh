// Candidates in the one order that decides detections: score falling, then index (class, then row) rising. No two of an image
// are equal, so whatever is selected and sorted here does not depend on the order in which blocks appended them.
#pragma once

#include "cuda/launch.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

// Key in the upper half, index in the lower: rising.
using FloatCandidate = unsigned long long;

struct DoubleCandidate {
  unsigned long long key;
  unsigned index;
};

template <typename T>
struct CandidateOf {
  using type = FloatCandidate;
};
template <>
struct CandidateOf<double> {
  using type = DoubleCandidate;
};
template <typename T>
using candidate_t = typename CandidateOf<T>::type;

// Never for a NaN; -0 stands as 0.
__device__ inline FloatCandidate make_candidate(float score, unsigned index) {
  const unsigned bits = __float_as_uint(score + 0.0f);
  const unsigned key = bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
  return static_cast<FloatCandidate>(key) << 32 | index;
}
__device__ inline DoubleCandidate make_candidate(double score, unsigned index) {
  const auto bits = static_cast<unsigned long long>(__double_as_longlong(score + 0.0));
  return {bits >> 63 ? bits : ~bits & ~(1ull << 63), index};
}

__device__ inline float score_of(FloatCandidate c) {
  const unsigned key = static_cast<unsigned>(c >> 32);
  return __uint_as_float(key & 0x80000000u ? key : ~key & 0x7fffffffu);
}
__device__ inline double score_of(const DoubleCandidate& c) {
  return __longlong_as_double(static_cast<long long>(c.key >> 63 ? c.key : ~c.key & ~(1ull << 63)));
}

__device__ inline unsigned index_of(FloatCandidate c) { return static_cast<unsigned>(c); }
__device__ inline unsigned index_of(const DoubleCandidate& c) { return c.index; }

__device__ inline bool stands_before(FloatCandidate a, FloatCandidate b) { return a < b; }
__device__ inline bool stands_before(const DoubleCandidate& a, const DoubleCandidate& b) {
  return a.key != b.key ? a.key < b.key : a.index < b.index;
}

// A candidate as digits of 8 bits, digit 0 the most significant.
template <typename C>
constexpr int kDigits = sizeof(C) == 8 ? 8 : 12;

__device__ inline unsigned digit(FloatCandidate c, int d) { return static_cast<unsigned>(c >> (56 - 8 * d)) & 255u; }
__device__ inline unsigned digit(const DoubleCandidate& c, int d) {
  return d < 8 ? static_cast<unsigned>(c.key >> (56 - 8 * d)) & 255u : c.index >> (88 - 8 * d) & 255u;
}

__device__ inline void set_digit(FloatCandidate& c, int d, unsigned value) {
  c = (c & ~(255ull << (56 - 8 * d))) | static_cast<FloatCandidate>(value) << (56 - 8 * d);
}
__device__ inline void set_digit(DoubleCandidate& c, int d, unsigned value) {
  if (d < 8) {
    c.key = (c.key & ~(255ull << (56 - 8 * d))) | static_cast<unsigned long long>(value) << (56 - 8 * d);
  } else {
    c.index = (c.index & ~(255u << (88 - 8 * d))) | value << (88 - 8 * d);
  }
}

template <typename C>
__device__ bool same_digits(const C& a, const C& b, int count) {
  for (int d = 0; d < count; ++d)
    if (digit(a, d) != digit(b, d)) return false;
  return true;
}

// The last of all candidates.
template <typename C>
__device__ C last_candidate() {
  C c{};
  for (int d = 0; d < kDigits<C>; ++d) set_digit(c, d, 255u);
  return c;
}

// Sorts `size` items in shared memory, a power of two. All threads of the block call it.
template <typename C>
__device__ void sort_shared(C* items, int size) {
  for (int span = 2; span <= size; span *= 2) {
    for (int step = span / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const int low = i / step * step * 2 + i % step, high = low + step;
        const bool rising = (low & span) == 0;
        const C a = items[low], b = items[high];
        if (stands_before(b, a) == rising) {
          items[low] = b;
          items[high] = a;
        }
      }
    }
  }
  __syncthreads();
}

// Writes to `page`, which holds `room` items, the first of those of `list` that stand behind `after` (of all, without
// `after`), sorted; returns how many there are. Fewer than room / 2 come only when nothing else is left. Radix select: digit by
// digit the bound falls until what stands before it fits. All threads of the block call it.
template <typename C>
__device__ int next_page(const C* list, int64_t count, const C* after, C* page, int room) {
  __shared__ unsigned bins[256];
  __shared__ unsigned taken, before_bound;  // before_bound: items of lower digits, which are in for sure
  __shared__ int chosen_digit;
  C bound = last_candidate<C>();
  if (threadIdx.x == 0) before_bound = 0;
  for (int d = 0; d < kDigits<C> && (count > room); ++d) {
    for (int b = threadIdx.x; b < 256; b += blockDim.x) bins[b] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
      const C item = list[i];
      if (after != nullptr && !stands_before(*after, item)) continue;
      if (same_digits(item, bound, d)) atomicAdd(&bins[digit(item, d)], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned sum = before_bound;
      int b = 0;
      while (b < 255 && sum + bins[b] < static_cast<unsigned>(room) / 2) sum += bins[b++];
      before_bound = sum;
      taken = sum + bins[b];
      chosen_digit = b;
    }
    __syncthreads();
    set_digit(bound, d, static_cast<unsigned>(chosen_digit));
    const bool fits = taken <= static_cast<unsigned>(room);
    __syncthreads();
    if (fits) break;
  }
  if (threadIdx.x == 0) taken = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    const C item = list[i];
    if ((after != nullptr && !stands_before(*after, item)) || stands_before(bound, item)) continue;
    page[atomicAdd(&taken, 1u)] = item;
  }
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
