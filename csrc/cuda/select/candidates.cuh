// Candidates in the one order that decides detections: score falling, then index (class, then row) rising. No two of an
// image are equal, so whatever is selected and sorted here does not depend on the order in which blocks appended them.
#pragma once

#include "cuda/common/launch.cuh"

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

// NaN stands before all others.
__device__ inline FloatCandidate make_candidate_or_first(float score, unsigned index) {
  return score == score ? make_candidate(score, index) : index;
}
__device__ inline DoubleCandidate make_candidate_or_first(double score, unsigned index) {
  return score == score ? make_candidate(score, index) : DoubleCandidate{0, index};
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

// A candidate as one unsigned number of kBits bits, which has the order.
template <typename C>
struct NumberOf {
  using type = unsigned long long;
  static constexpr int kBits = 64;
};
template <>
struct NumberOf<DoubleCandidate> {
  using type = unsigned __int128;
  static constexpr int kBits = 96;
};
template <typename C>
using number_t = typename NumberOf<C>::type;

__device__ inline unsigned long long number(FloatCandidate c) { return c; }
__device__ inline unsigned __int128 number(const DoubleCandidate& c) {
  return static_cast<unsigned __int128>(c.key) << 32 | c.index;
}

// The upper 32 bits of a number.
template <typename C>
__device__ __forceinline__ unsigned head(number_t<C> n) {
  return static_cast<unsigned>(n >> (NumberOf<C>::kBits - 32));
}

// The last number with this head.
template <typename C>
__device__ __forceinline__ number_t<C> last_with_head(unsigned head) {
  constexpr int kTail = NumberOf<C>::kBits - 32;
  return static_cast<number_t<C>>(head) << kTail | ((number_t<C>(1) << kTail) - 1);
}

// The lowest score of the numbers with this head.
__device__ inline float lowest_score(unsigned head, float) { return score_of(static_cast<FloatCandidate>(head) << 32); }
__device__ inline double lowest_score(unsigned head, double) {
  return score_of(DoubleCandidate{static_cast<unsigned long long>(head) << 32 | 0xffffffffu, 0});
}

// The last of all candidates.
template <typename C>
__device__ C last_candidate();
template <>
__device__ inline FloatCandidate last_candidate() {
  return ~0ull;
}
template <>
__device__ inline DoubleCandidate last_candidate() {
  return {~0ull, ~0u};
}

// Sorts `size` items in shared memory, a power of two. All threads of the block call it.
template <typename C>
__device__ void sort_shared(C* items, int size) {
  int last_step = kWarpSize + 1;  // others have written the items
  for (int span = 2; span <= size; span *= 2) {
    for (int step = span / 2; step > 0; last_step = step, step /= 2) {
      // Short steps stay among the 64 items that a warp has in all of them.
      if (step > kWarpSize || last_step > kWarpSize) {
        __syncthreads();
      } else {
        __syncwarp();
      }
      for (int i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const int low = (i & ~(step - 1)) * 2 | (i & (step - 1)), high = low + step;
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

}  // namespace
}  // namespace ssd_ops
