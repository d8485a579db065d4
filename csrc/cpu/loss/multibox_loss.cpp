#include "cpu/loss/multibox_loss.h"

#include <cmath>
#include <limits>

#include "cpu/common/level_runs.h"
#include "cpu/common/load.h"
#include "cpu/common/vec_math.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Partial sums of a row: the same number on every instruction set, so that all of them give the same bits.
constexpr int kLanes = 16;
constexpr int64_t kRows = 32;  // rows that are processed together, step by step; few enough for the L1 cache

#define SSD_OPS_INLINE inline __attribute__((always_inline))

// One step of reducing the 2 * width partial results of each row: lane l is combined with lane width + l.
template <int width, typename T, typename Combine>
SSD_OPS_INLINE void halve(const T* __restrict from, T* __restrict to, Combine combine) {
  for (int64_t r = 0; r < kRows; ++r)
    for (int l = 0; l < width; ++l)
      to[r * width + l] = combine(from[r * 2 * width + l], from[r * 2 * width + width + l]);
}

// Reduces the lanes of each row. Each step runs over all rows, because the steps of one row depend on each other.
template <typename T, typename Combine>
SSD_OPS_INLINE void reduce(const T* lanes, T* result, Combine combine) {
  alignas(64) T eight[kRows * 8], four[kRows * 4], two[kRows * 2];
  halve<8>(lanes, eight, combine);
  halve<4>(eight, four, combine);
  halve<2>(four, two, combine);
  halve<1>(two, result, combine);
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
template <typename T, typename In>
void row_sums(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  alignas(64) T lanes[kRows * kLanes] = {};
  partial_maxima(logits, rows, classes, lanes);
  // The next rows: the loops above read too many streams at once for the hardware prefetcher.
  const char* ahead = reinterpret_cast<const char*>(logits + kRows * classes);
  for (int64_t k = 0; k < rows * classes * static_cast<int64_t>(sizeof(In)); k += 64) __builtin_prefetch(ahead + k);
  reduce(lanes, shifts, max_of<T>);
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
  reduce(lanes, sums, [](T a, T b) { return a + b; });
}

// The same for fewer classes, padded with -inf.
template <typename T, typename In>
void short_row_sums(const In* logits, int64_t rows, int64_t classes, T* shifts, T* sums) {
  In padded[kRows * kLanes];
  for (In& x : padded) x = narrow<In>(-std::numeric_limits<T>::infinity());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < classes; ++c) padded[r * kLanes + c] = logits[r * classes + c];
  row_sums(padded, rows, kLanes, shifts, sums);
}

template <typename In>
bool compute_rows(const LossParams& params, const LevelRun& run) {
  using T = compute_t<In>;
  const int64_t classes = params.num_classes;
  const In* logits = static_cast<const In*>(params.logits.of[run.level]) + run.row * classes;
  const int64_t* labels = params.labels + run.batch_row;
  T* lse = static_cast<T*>(params.lse) + run.batch_row;
  T* cross_entropy = static_cast<T*>(params.cross_entropy()) + run.batch_row;
  bool in_range = true;
  for (int64_t first = 0; first < run.count; first += kRows) {
    const int64_t count = run.count - first < kRows ? run.count - first : kRows;
    T shifts[kRows], sums[kRows], targets[kRows];
    const auto sum_rows = classes < kLanes ? short_row_sums<T, In> : row_sums<T, In>;
    sum_rows(logits + first * classes, count, classes, shifts, sums);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t label = labels[first + r];
      in_range = in_range && label >= -1 && label < classes;
      targets[r] = widen(logits[(first + r) * classes + (label > 0 && label < classes ? label : 0)]);
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

// Radix select of the k highest keys, most significant digit first; at least k keys are not 0.
template <typename T, typename Key = sort_key_t<T>>
KeyThreshold<Key> select_top_k(const T* cross_entropy, const int64_t* labels, int64_t num_priors, int64_t k) {
  constexpr int kBits = 8 * sizeof(Key);
  if (k == 0) return {~Key(0), 0};
  Key prefix = 0;
  for (int shift = kBits; shift > 0;) {
    const int digit_bits = shift < kRadixBits ? shift : kRadixBits, prefix_shift = shift;
    shift -= digit_bits;
    uint32_t counts[1 << kRadixBits] = {};
    for (int64_t p = 0; p < num_priors; ++p) {
      const Key key = mining_key(cross_entropy[p], labels[p]);
      if (prefix_shift == kBits || key >> prefix_shift == prefix) ++counts[key >> shift & ((Key(1) << digit_bits) - 1)];
    }
    Key digit = (Key(1) << digit_bits) - 1;
    while (counts[digit] < k) k -= counts[digit--];
    prefix = prefix << digit_bits | digit;
  }
  return {prefix, k};
}

template <typename T>
double box_loss(const LossParams& params, int64_t row) {
  T loc[4], target[4];
  const LevelRow at = level_row_of_batch(params.levels, row);
  load_four(params.loc_type, params.loc.of[at.level], at.row, loc);
  load_four(params.target_type, params.loc_targets, row, target);
  double sum = 0;
  for (int k = 0; k < 4; ++k) sum += smooth_l1(loc[k] - target[k]);
  return sum;
}

template <typename T>
ImageSums image_sums(const LossParams& params, const Mining& mining, int64_t image, double divisor) {
  const int64_t first = image * params.num_priors;
  const int64_t* labels = params.labels + first;
  T* weight = static_cast<T*>(params.weight) + first;
  int64_t positives = 0, background = 0;
  for (int64_t p = 0; p < params.num_priors; ++p) {
    positives += labels[p] > 0;
    background += labels[p] == 0;
  }
  const int64_t k = num_hard_negatives(mining, positives, background);
  const auto threshold = select_top_k(weight, labels, params.num_priors, k);
  const T sample_weight = T(1) / static_cast<T>(divisor);
  ImageSums sums{0, 0};
  int64_t ties = threshold.num_ties;
  for (int64_t p = 0; p < params.num_priors; ++p) {
    const T cross_entropy = weight[p];
    const auto key = mining_key(cross_entropy, labels[p]);
    const bool sampled = labels[p] > 0 || key > threshold.key || (key == threshold.key && ties-- > 0);
    weight[p] = sampled ? sample_weight : T(0);
    if (sampled) sums.cls += cross_entropy;
    if (labels[p] > 0) sums.loc += box_loss<T>(params, first + p);
  }
  return sums;
}

}  // namespace

bool loss_rows(const LossParams& params, int64_t begin, int64_t end) {
  bool in_range = true;
  for_each_run(params.levels, params.batch_size, begin, end, [&](const LevelRun& run) {
    dispatch_dtype(params.logits_type,
                   [&](auto zero) { in_range = compute_rows<decltype(zero)>(params, run) && in_range; });
  });
  return in_range;
}

int64_t loss_positives(const LossParams& params, int64_t image) {
  const int64_t* labels = params.labels + image * params.num_priors;
  int64_t positives = 0;
  for (int64_t p = 0; p < params.num_priors; ++p) positives += labels[p] > 0;
  return positives;
}

ImageSums loss_image(const LossParams& params, const Mining& mining, int64_t image, double divisor) {
  if (params.logits_type == Dtype::f64) return image_sums<double>(params, mining, image, divisor);
  return image_sums<float>(params, mining, image, divisor);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
