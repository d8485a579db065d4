// Sums of exponentials of rows of logits, for the training loss and its gradient.
#pragma once

#include <cmath>
#include <cstdint>
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

// The maximum logit of each row, in kLanes partial results. Here and below the loop over rows is within the loop over
// steps, so that consecutive instructions are independent and the loop over lanes vectorizes.
template <typename T, typename In>
SSD_OPS_INLINE void partial_maxima(const In* __restrict logits, int64_t rows, int64_t classes, T* __restrict lanes) {
  const int64_t last = classes - kLanes;  // the last vector overlaps the one before it
  for (int64_t r = 0; r < rows; ++r)
    for (int l = 0; l < kLanes; ++l) lanes[r * kLanes + l] = widen(logits[r * classes + last + l]);
  for (int64_t c = 0; c < last; c += kLanes)
    for (int64_t r = 0; r < rows; ++r)
      for (int l = 0; l < kLanes; ++l)
        lanes[r * kLanes + l] = max_of(lanes[r * kLanes + l], widen(logits[r * classes + c + l]));
}

// The sum of exp(logit - shift) of each row, in kLanes partial sums.
template <typename T, typename In, typename Exp>
SSD_OPS_INLINE void exp_sums(const In* __restrict logits, int64_t rows, int64_t classes, const T* __restrict shifts,
                             T* __restrict lanes, Exp exp) {
  const int64_t last = classes - kLanes;
  const int counted = static_cast<int>((kLanes - classes % kLanes) % kLanes);
  for (int64_t r = 0; r < rows; ++r)
    for (int l = 0; l < kLanes; ++l) lanes[r * kLanes + l] = exp(widen(logits[r * classes + last + l]) - shifts[r]);
  for (int64_t r = 0; r < rows; ++r)
    for (int l = 0; l < counted; ++l) lanes[r * kLanes + l] = T(0);
  for (int64_t c = 0; c < last; c += kLanes)
    for (int64_t r = 0; r < rows; ++r)
      for (int l = 0; l < kLanes; ++l) lanes[r * kLanes + l] += exp(widen(logits[r * classes + c + l]) - shifts[r]);
}

// For each row the shift, its maximum logit (0 if infinite), and the sum of exp(logit - shift); for at least kLanes
// classes.
template <int64_t kRows, typename T, typename In>
void row_sums_of_many_classes(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  alignas(64) T lanes[kRows * kLanes] = {};
  partial_maxima(logits, rows, classes, lanes);
  // The next rows: the loops above read too many streams at once for the hardware prefetcher.
  const char* ahead = reinterpret_cast<const char*>(logits + kRows * classes);
  for (int64_t k = 0; k < rows * classes * static_cast<int64_t>(sizeof(In)); k += 64) __builtin_prefetch(ahead + k);
  reduce<kRows>(lanes, shifts, max_of<T>);
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    finite = finite && !std::isinf(shifts[r]);
    shifts[r] = std::isinf(shifts[r]) ? T(0) : shifts[r];
  }
  if (finite) {
    exp_sums(logits, rows, classes, shifts, lanes, [](T x) { return vec_exp_nonpositive(x); });
  } else {
    exp_sums(logits, rows, classes, shifts, lanes, [](T x) { return vec_exp(x); });
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

#undef SSD_OPS_INLINE

}  // namespace
}  // namespace ssd_ops::cpu::SSD_OPS_ISA
