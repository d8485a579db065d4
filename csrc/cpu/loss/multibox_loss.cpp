#include "cpu/loss/multibox_loss.h"

#include <cmath>
#include <limits>

#include "cpu/common/load.h"
#include "cpu/common/vec_math.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Sums of a row run in this many lanes on every instruction set, so that all of them give the same bits.
constexpr int kLanes = 16;
constexpr int64_t kRows = 32;  // rows that go through each step together; few enough for the nearest cache

#define SSD_OPS_INLINE inline __attribute__((always_inline))

// One step of reducing lanes: of the 2 * width lanes of each row, number l is combined with number width + l.
template <int width, typename T, typename Combine>
SSD_OPS_INLINE void halve(const T* __restrict from, T* __restrict to, Combine combine) {
  for (int64_t r = 0; r < kRows; ++r)
    for (int l = 0; l < width; ++l)
      to[r * width + l] = combine(from[r * 2 * width + l], from[r * 2 * width + width + l]);
}

// Combines the lanes of each row; all rows take a step together, as one row's next step waits for its last one.
template <typename T, typename Combine>
SSD_OPS_INLINE void reduce(const T* lanes, T* result, Combine combine) {
  alignas(64) T eight[kRows * 8], four[kRows * 4], two[kRows * 2];
  halve<8>(lanes, eight, combine);
  halve<4>(eight, four, combine);
  halve<2>(four, two, combine);
  halve<1>(two, result, combine);
}

template <typename T>
SSD_OPS_INLINE T higher(T a, T b) {
  return b > a ? b : a;
}

// For each row its highest logits in kLanes parts. Rows go through a column together, here and below: no row waits for
// its own last step, and the compiler sees a loop over lanes that it puts into a vector.
template <typename T, typename In>
SSD_OPS_INLINE void highest(const In* __restrict logits, int64_t rows, int64_t classes, T* __restrict lanes) {
  const int64_t last = classes - kLanes;  // the last vector overlaps the one before it
  for (int64_t r = 0; r < rows; ++r)
    for (int l = 0; l < kLanes; ++l) lanes[r * kLanes + l] = widen(logits[r * classes + last + l]);
  for (int64_t c = 0; c < last; c += kLanes)
    for (int64_t r = 0; r < rows; ++r)
      for (int l = 0; l < kLanes; ++l)
        lanes[r * kLanes + l] = higher(lanes[r * kLanes + l], widen(logits[r * classes + c + l]));
}

// For each row the sum of exp(logit - shift) in kLanes parts.
template <typename T, typename In, typename Exp>
SSD_OPS_INLINE void exp_sums(const In* __restrict logits, int64_t rows, int64_t classes, const T* __restrict shifts,
                             T* __restrict lanes, Exp exp) {
  const int64_t last = classes - kLanes;
  const int seen = static_cast<int>((kLanes - classes % kLanes) % kLanes);
  for (int64_t r = 0; r < rows; ++r)
    for (int l = 0; l < kLanes; ++l) lanes[r * kLanes + l] = exp(widen(logits[r * classes + last + l]) - shifts[r]);
  for (int64_t r = 0; r < rows; ++r)
    for (int l = 0; l < seen; ++l) lanes[r * kLanes + l] = T(0);
  for (int64_t c = 0; c < last; c += kLanes)
    for (int64_t r = 0; r < rows; ++r)
      for (int l = 0; l < kLanes; ++l) lanes[r * kLanes + l] += exp(widen(logits[r * classes + c + l]) - shifts[r]);
}

// For each row its highest logit (0 where that is infinite) and the sum of exp(logit - shift); at least kLanes classes.
template <typename T, typename In>
void row_sums(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  alignas(64) T lanes[kRows * kLanes] = {};
  highest(logits, rows, classes, lanes);
  // The next rows, which the loops above ask for in too many places at once for the hardware to foresee.
  const char* ahead = reinterpret_cast<const char*>(logits + kRows * classes);
  for (int64_t k = 0; k < rows * classes * static_cast<int64_t>(sizeof(In)); k += 64) __builtin_prefetch(ahead + k);
  reduce(lanes, shifts, higher<T>);
  bool finite = true;
  for (int64_t r = 0; r < rows; ++r) {
    finite = finite && !std::isinf(shifts[r]);
    shifts[r] = std::isinf(shifts[r]) ? T(0) : shifts[r];
  }
  if (finite) {
    exp_sums(logits, rows, classes, shifts, lanes, [](T x) { return vec_exp_of_falling(x); });
  } else {
    exp_sums(logits, rows, classes, shifts, lanes, [](T x) { return vec_exp(x); });
  }
  reduce(lanes, sums, [](T a, T b) { return a + b; });
}

// The same for fewer classes.
template <typename T, typename In>
void short_row_sums(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  In padded[kRows * kLanes];
  for (In& x : padded) x = narrow<In>(-std::numeric_limits<T>::infinity());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < classes; ++c) padded[r * kLanes + c] = logits[r * classes + c];
  row_sums(padded, rows, kLanes, shifts, sums);
}

template <typename In>
bool rows(const LossTask& task, int64_t begin, int64_t end) {
  using T = compute_t<In>;
  const In* logits = static_cast<const In*>(task.logits);
  T* lse = static_cast<T*>(task.lse);
  T* cross_entropy = static_cast<T*>(task.weight);
  bool in_range = true;
  for (int64_t first = begin; first < end; first += kRows) {
    const int64_t count = end - first < kRows ? end - first : kRows;
    T shifts[kRows], sums[kRows], targets[kRows];
    const auto of_rows = task.classes < kLanes ? short_row_sums<T, In> : row_sums<T, In>;
    of_rows(logits + first * task.classes, count, task.classes, shifts, sums);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t label = task.labels[first + r];
      in_range = in_range && label >= -1 && label < task.classes;
      targets[r] = widen(logits[(first + r) * task.classes + (label > 0 && label < task.classes ? label : 0)]);
    }
    for (int64_t r = 0; r < count; ++r) {
      const T log_sum = vec_log(sums[r]);
      lse[first + r] = log_sum + shifts[r];
      cross_entropy[first + r] = log_sum - (targets[r] - shifts[r]);
    }
  }
  return in_range;
}

#undef SSD_OPS_INLINE

// The cut that takes `wanted` keys, found digit by digit from the highest; at least so many are above 0.
template <typename T, typename Key = typename MiningKey<T>::type>
MiningCut<Key> select_highest(const T* cross_entropy, const int64_t* labels, int64_t priors, int64_t wanted) {
  constexpr int kBits = 8 * sizeof(Key);
  if (wanted == 0) return {~Key(0), 0};
  Key prefix = 0;
  for (int low = kBits; low > 0;) {
    const int width = low < kMiningDigit ? low : kMiningDigit, above = low;
    low -= width;
    uint32_t counts[1 << kMiningDigit] = {};
    for (int64_t p = 0; p < priors; ++p) {
      const Key key = mining_key(cross_entropy[p], labels[p]);
      if (above == kBits || key >> (above % kBits) == prefix) ++counts[key >> low & ((Key(1) << width) - 1)];
    }
    Key digit = (Key(1) << width) - 1;
    while (counts[digit] < wanted) wanted -= counts[digit--];
    prefix = prefix << width | digit;
  }
  return {prefix, wanted};
}

template <typename T>
double box_loss(const LossTask& task, int64_t row) {
  T loc[4], target[4];
  load_four(task.loc_type, task.loc, row, loc);
  load_four(task.target_type, task.loc_targets, row, target);
  double sum = 0;
  for (int k = 0; k < 4; ++k) sum += smooth_l1(loc[k] - target[k]);
  return sum;
}

template <typename T>
ImageSums image_sums(const LossTask& task, const Mining& mining, int64_t image, double norm) {
  const int64_t first = image * task.priors;
  const int64_t* labels = task.labels + first;
  T* weight = static_cast<T*>(task.weight) + first;
  int64_t positives = 0, background = 0;
  for (int64_t p = 0; p < task.priors; ++p) {
    positives += labels[p] > 0;
    background += labels[p] == 0;
  }
  const auto cut = select_highest(weight, labels, task.priors, negatives_wanted(mining, positives, background));
  const T share = T(1) / static_cast<T>(norm);
  ImageSums sums{0, 0};
  int64_t ties = cut.ties;
  for (int64_t p = 0; p < task.priors; ++p) {
    const T cross_entropy = weight[p];
    const auto key = mining_key(cross_entropy, labels[p]);
    const bool chosen = labels[p] > 0 || key > cut.key || (key == cut.key && ties-- > 0);
    weight[p] = chosen ? share : T(0);
    if (chosen) sums.cls += cross_entropy;
    if (labels[p] > 0) sums.loc += box_loss<T>(task, first + p);
  }
  return sums;
}

}  // namespace

bool loss_rows(const LossTask& task, int64_t begin, int64_t end) {
  return dispatch_dtype(task.logits_type, [&](auto zero) { return rows<decltype(zero)>(task, begin, end); });
}

int64_t loss_positives(const LossTask& task, int64_t image) {
  const int64_t* labels = task.labels + image * task.priors;
  int64_t positives = 0;
  for (int64_t p = 0; p < task.priors; ++p) positives += labels[p] > 0;
  return positives;
}

ImageSums loss_image(const LossTask& task, const Mining& mining, int64_t image, double norm) {
  if (task.logits_type == Dtype::f64) return image_sums<double>(task, mining, image, norm);
  return image_sums<float>(task, mining, image, norm);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
