// Candidates in the order that determines detections: descending score, then ascending index (class, then box). No two
// of an image are equal, so what is selected and sorted here does not depend on the order in which blocks appended
// them.
#pragma once

#include "core/ordered_key.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

// Descending key of the score in the upper 32 bits, index in the lower: sorting ascending gives descending scores.
using FloatCandidate = unsigned long long;

struct DoubleCandidate {
  unsigned long long key;
  unsigned index;
};

template <typename T>
using candidate_t = std::conditional_t<std::is_same_v<T, double>, DoubleCandidate, FloatCandidate>;

// The score must not be NaN; -0 becomes 0.
__device__ inline FloatCandidate make_candidate(float score, unsigned index) {
  return static_cast<FloatCandidate>(descending_key(score)) << 32 | index;
}
__device__ inline DoubleCandidate make_candidate(double score, unsigned index) {
  return {descending_key(score), index};
}

__device__ inline float score_of(FloatCandidate c) { return score_of_key<float>(static_cast<unsigned>(c >> 32)); }
__device__ inline double score_of(const DoubleCandidate& c) { return score_of_key<double>(c.key); }

__device__ inline unsigned index_of(FloatCandidate c) { return static_cast<unsigned>(c); }
__device__ inline unsigned index_of(const DoubleCandidate& c) { return c.index; }

__device__ inline bool precedes(FloatCandidate a, FloatCandidate b) { return a < b; }
__device__ inline bool precedes(const DoubleCandidate& a, const DoubleCandidate& b) {
  return a.key != b.key ? a.key < b.key : a.index < b.index;
}

// A candidate as one unsigned sort key of kBits bits, in the same order.
template <typename C>
struct CandidateKeyTraits {
  using type = unsigned long long;
  static constexpr int kBits = 64;
};
template <>
struct CandidateKeyTraits<DoubleCandidate> {
  using type = unsigned __int128;
  static constexpr int kBits = 96;
};
template <typename C>
using candidate_key_t = typename CandidateKeyTraits<C>::type;

__device__ inline unsigned long long sort_key(FloatCandidate c) { return c; }
__device__ inline unsigned __int128 sort_key(const DoubleCandidate& c) {
  return static_cast<unsigned __int128>(c.key) << 32 | c.index;
}

// The high 32 bits of a sort key: the key of a float score, or the upper half of that of a double.
template <typename C>
__device__ __forceinline__ unsigned high_bits(candidate_key_t<C> key) {
  return static_cast<unsigned>(key >> (CandidateKeyTraits<C>::kBits - 32));
}

// The highest sort key with these high bits.
template <typename C>
__device__ __forceinline__ candidate_key_t<C> last_with_high_bits(unsigned high) {
  constexpr int kLowBits = CandidateKeyTraits<C>::kBits - 32;
  return static_cast<candidate_key_t<C>>(high) << kLowBits | ((candidate_key_t<C>(1) << kLowBits) - 1);
}

// The lowest score of the sort keys with these high bits.
__device__ inline float lowest_score(unsigned high, float) { return score_of_key<float>(high); }
__device__ inline double lowest_score(unsigned high, double) {
  return score_of_key<double>(static_cast<unsigned long long>(high) << 32 | 0xffffffffu);
}

// Follows every candidate.
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

}  // namespace
}  // namespace ssd_ops
