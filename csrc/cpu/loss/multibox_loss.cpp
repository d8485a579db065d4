#include "cpu/loss/multibox_loss.h"

#include "cpu/common/level_runs.h"
#include "cpu/loss/row_sums.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

constexpr int64_t kRows = 16;  // rows that are processed together, step by step; few enough for the L1 cache

template <typename In>
bool compute_rows(const LossParams& params, const LevelRun& run) {
  using T = compute_t<In>;
  const int64_t classes = params.num_classes;
  const In* logits = static_cast<const In*>(params.logits.of[run.level]) + run.row * classes;
  const int64_t* labels = params.labels + run.batch_row;
  T* cross_entropy = static_cast<T*>(params.cross_entropy()) + run.batch_row;
  bool in_range = true;
  for (int64_t first = 0; first < run.count; first += kRows) {
    const int64_t count = run.count - first < kRows ? run.count - first : kRows;
    T shifts[kRows], sums[kRows], targets[kRows];
    row_sums<kRows>(logits + first * classes, count, classes, shifts, sums);
    for (int64_t r = 0; r < count; ++r) {
      const int64_t label = labels[first + r];
      in_range = in_range && label >= -1 && label < classes;
      targets[r] = widen(logits[(first + r) * classes + (label > 0 && label < classes ? label : 0)]);
    }
    for (int64_t r = 0; r < count; ++r) {
      cross_entropy[first + r] = vec_log(sums[r]) - (targets[r] - shifts[r]);
    }
  }
  return in_range;
}

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
