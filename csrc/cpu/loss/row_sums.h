// Sums of exponentials of rows of logits, for the training loss and its gradient.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "cpu/common/load.h"
#include "cpu/common/vec_math.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Partial sums of a row: the same number on every instruction set, so that all of them give the same bits.
constexpr int kLanes = 16;

#define SSD_OPS_INLINE inline __attribute__((always_inline))

// One step of reducing the 2 * width partial results of each row: lane l is combined with lane width + l.
template <int64_t kRows, int width, typename T, typename Combine>
SSD_OPS_INLINE void halve(const T* __restrict from, T* __restrict to, Combine combine) {
  for (int64_t r = 0; r < kRows; ++r)
    for (int l = 0; l < width; ++l)
      to[r * width + l] = combine(from[r * 2 * width + l], from[r * 2 * width + width + l]);
}

// Reduces the lanes of each row. Each step runs over all rows, because the steps of one row depend on each other.
template <int64_t kRows, typename T, typename Combine>
SSD_OPS_INLINE void reduce(const T* lanes, T* result, Combine combine) {
  alignas(64) T eight[kRows * 8], four[kRows * 4], two[kRows * 2];
  halve<kRows, 8>(lanes, eight, combine);
  halve<kRows, 4>(eight, four, combine);
  halve<kRows, 2>(four, two, combine);
  halve<kRows, 1>(two, result, combine);
}

template <typename T>
SSD_OPS_INLINE T max_of(T a, T b) {
  return b > a ? b : a;
}

// Loops over the lanes. Compilers would unroll a short loop before they vectorize, and then load single numbers.
#ifdef __clang__
#define SSD_OPS_LANES(l, first) \
  _Pragma("clang loop vectorize(assume_safety) unroll(disable)") for (int l = first; l < kLanes; ++l)
#else
#define SSD_OPS_LANES(l, first) _Pragma("GCC unroll 2") for (int l = first; l < kLanes; ++l)
#endif

// The maximum logit of each row, in kLanes partial results. Here and below the loop over rows is within the loop over
// steps, so that consecutive instructions are independent.
template <typename T, typename In>
SSD_OPS_INLINE void partial_maxima(const In* __restrict logits, int64_t rows, int64_t classes, T* __restrict lanes) {
  const int64_t last = classes - kLanes;  // the last vector overlaps the one before it
  for (int64_t r = 0; r < rows; ++r) SSD_OPS_LANES(l, 0) lanes[r * kLanes + l] = widen(logits[r * classes + last + l]);
  for (int64_t c = 0; c < last; c += kLanes)
    for (int64_t r = 0; r < rows; ++r)
      SSD_OPS_LANES(l, 0) lanes[r * kLanes + l] = max_of(lanes[r * kLanes + l], widen(logits[r * classes + c + l]));
}

template <typename In>
SSD_OPS_INLINE void prefetch(const In* lanes) {
  for (int i = 0; i < kLanes; i += 64 / static_cast<int>(sizeof(In))) __builtin_prefetch(lanes + i);
}

// Adds exp(logit - shift) of one vector of each row to its lanes. With `counted`, it sets the lanes: to 0 below
// `first`, and wherever a lane is not counted. Three loops, because the instructions of an exp depend on each other:
// the few iterations of one long loop that a CPU holds at a time do not fill its pipelines. Prefetches the rows after
// the next ones, because the loops read too many streams at once for the hardware prefetcher.
template <int64_t kRows, int first, typename T, typename In>
SSD_OPS_INLINE void add_exp(const In* __restrict logits, int64_t rows, int64_t classes, const T* __restrict shifts,
                            const sort_key_t<T>* __restrict counted, T* __restrict lanes) {
  // volatile: of a constant, GCC would compute all that follows, too, and select between results.
  const volatile float hidden = kLowestExp;
  const float lowest = hidden;
  alignas(64) T remainders[kRows * kLanes], scales[kRows * kLanes], series[kRows * kLanes];
  for (int64_t r = 0; r < rows; ++r) {
    prefetch(logits + (2 * kRows + r) * classes);
    SSD_OPS_LANES(l, first) {
      T scale;
      remainders[r * kLanes + l] = begin_exp(widen(logits[r * classes + l]) - shifts[r], lowest, &scale);
      scales[r * kLanes + l] = counted == nullptr ? scale : from_bits<T>(to_bits(scale) & counted[l]);
    }
  }
  for (int64_t r = 0; r < rows; ++r)
    SSD_OPS_LANES(l, first) series[r * kLanes + l] = exp_series(remainders[r * kLanes + l]);
  for (int64_t r = 0; r < rows; ++r) {
    for (int l = 0; l < first; ++l) lanes[r * kLanes + l] = T(0);
    SSD_OPS_LANES(l, first) {
      const int64_t i = r * kLanes + l;
      lanes[i] = (counted == nullptr ? lanes[i] : T(0)) + end_exp(remainders[i], series[i], scales[i]);
    }
  }
}

// Lanes of the last vector of a row that the vector before it does not have.
template <typename T>
SSD_OPS_INLINE void last_lanes(int64_t classes, sort_key_t<T>* counted) {
  const int overlap = static_cast<int>((kLanes - classes % kLanes) % kLanes);
  for (int l = 0; l < kLanes; ++l) counted[l] = l < overlap ? sort_key_t<T>(0) : ~sort_key_t<T>(0);
}

// The sum of exp(logit - shift) of each row, in kLanes partial sums.
template <int64_t kRows, typename T, typename In>
SSD_OPS_INLINE void exp_sums(const In* __restrict logits, int64_t rows, int64_t classes, const T* __restrict shifts,
                             T* __restrict lanes) {
  const int64_t last = classes - kLanes;
  sort_key_t<T> counted[kLanes];
  last_lanes<T>(classes, counted);
  if (counted[kLanes / 2 - 1] == 0) {
    add_exp<kRows, kLanes / 2>(logits + last, rows, classes, shifts, counted, lanes);
  } else {
    add_exp<kRows, 0>(logits + last, rows, classes, shifts, counted, lanes);
  }
  for (int64_t c = 0; c < last; c += kLanes) add_exp<kRows, 0, T>(logits + c, rows, classes, shifts, nullptr, lanes);
}

// The same for rows of which one has an infinite maximum.
template <typename T, typename In>
void exp_sums_with_infinity(const In* __restrict logits, int64_t rows, int64_t classes, const T* __restrict shifts,
                            T* __restrict lanes) {
  const int64_t last = classes - kLanes;
  sort_key_t<T> counted[kLanes];
  last_lanes<T>(classes, counted);
  for (int64_t r = 0; r < rows; ++r) {
    const In* __restrict row = logits + r * classes;
    T* __restrict sums = lanes + r * kLanes;
    SSD_OPS_LANES(l, 0) sums[l] = from_bits<T>(to_bits(vec_exp(widen(row[last + l]) - shifts[r])) & counted[l]);
    for (int64_t c = 0; c < last; c += kLanes) SSD_OPS_LANES(l, 0) sums[l] += vec_exp(widen(row[c + l]) - shifts[r]);
  }
}

// For each row the shift, its maximum logit (0 if infinite), and the sum of exp(logit - shift); for at least kLanes
// classes.
template <int64_t kRows, typename T, typename In>
void row_sums_of_many_classes(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  if (rows > kRows) __builtin_unreachable();  // else GCC 14 warns that the loops over rows write past `lanes`
  alignas(64) T lanes[kRows * kLanes];
  if (rows < kRows) std::memset(lanes, 0, sizeof(lanes));  // rows that are reduced without being used
  partial_maxima(logits, rows, classes, lanes);
  reduce<kRows>(lanes, shifts, max_of<T>);
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    finite = finite && !std::isinf(shifts[r]);
    shifts[r] = std::isinf(shifts[r]) ? T(0) : shifts[r];
  }
  if (finite) {
    exp_sums<kRows>(logits, rows, classes, shifts, lanes);
  } else {
    exp_sums_with_infinity(logits, rows, classes, shifts, lanes);
  }
  reduce<kRows>(lanes, sums, [](T a, T b) { return a + b; });
}

// The same for fewer classes, padded with -inf.
template <int64_t kRows, typename T, typename In>
void row_sums_of_few_classes(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  In padded[kRows * kLanes];
  for (In& x : padded) x = narrow<In>(-std::numeric_limits<T>::infinity());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < classes; ++c) padded[r * kLanes + c] = logits[r * classes + c];
  row_sums_of_many_classes<kRows>(padded, rows, kLanes, shifts, sums);
}

// The same for any number of classes. `rows` is at most kRows.
template <int64_t kRows, typename T, typename In>
void row_sums(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  if (classes < kLanes) return row_sums_of_few_classes<kRows>(logits, rows, classes, shifts, sums);
  row_sums_of_many_classes<kRows>(logits, rows, classes, shifts, sums);
}

#undef SSD_OPS_LANES
#undef SSD_OPS_INLINE

}  // namespace
}  // namespace ssd_ops::cpu::SSD_OPS_ISA
