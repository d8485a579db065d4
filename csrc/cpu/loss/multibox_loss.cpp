#include "cpu/loss/multibox_loss.h"

#include "cpu/common/level_runs.h"
#include "cpu/common/scratch.h"
#include "cpu/loss/row_sums.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

constexpr int64_t kRows = 16;  // rows that are processed together, step by step; few enough for the L1 cache
constexpr int64_t kGroup = 8;  // priors that mining looks at together

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
      const bool valid = label >= -1 && label < classes;
      in_range &= valid;
      targets[r] = widen(logits[(first + r) * classes + (valid && label > 0 ? label : 0)]);
    }
    for (int64_t r = 0; r < count; ++r) {
      cross_entropy[first + r] = vec_log(sums[r]) - (targets[r] - shifts[r]);
    }
  }
  return in_range;
}

// Radix select of the k highest of n keys, most significant digit first.
template <typename Key>
KeyThreshold<Key> radix_select(const Key* keys, int64_t n, int64_t k) {
  constexpr int kBits = 8 * sizeof(Key);
  Key prefix = 0;
  for (int shift = kBits; shift > 0;) {
    const int digit_bits = shift < kRadixBits ? shift : kRadixBits, prefix_shift = shift;
    shift -= digit_bits;
    uint32_t counts[1 << kRadixBits] = {};
    for (int64_t i = 0; i < n; ++i) {
      if (prefix_shift == kBits || keys[i] >> prefix_shift == prefix)
        ++counts[keys[i] >> shift & ((Key(1) << digit_bits) - 1)];
    }
    Key digit = (Key(1) << digit_bits) - 1;
    while (counts[digit] < k) k -= counts[digit--];
    prefix = prefix << digit_bits | digit;
  }
  return {prefix, k};
}

// The same for k of 0, too, and in fewer steps: a lower bound of the k-th highest key is the k-th highest of the maxima
// of groups of keys, and few keys are not below it.
template <typename Key>
KeyThreshold<Key> select_top_k(const Key* keys, int64_t n, int64_t k) {
  if (k == 0) return {~Key(0), 0};
  const int64_t groups = n / kGroup;
  if (k > groups) return radix_select(keys, n, k);
  Scratch<Key> chosen(n);
  for (int64_t g = 0; g < groups; ++g) chosen[g] = keys[g];
  for (int64_t first = groups; first < kGroup * groups; first += groups)
    for (int64_t g = 0; g < groups; ++g) chosen[g] = chosen[g] > keys[first + g] ? chosen[g] : keys[first + g];
  const Key lowest = radix_select(chosen.data(), groups, k).key;
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    chosen[count] = keys[i];
    count += keys[i] >= lowest;
  }
  return radix_select(chosen.data(), count, k);
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

// The priors that may be sampled: positives, and those whose key is not below the threshold. Returns their number.
template <typename Key>
int64_t list_samples(const Key* keys, const int64_t* labels, int64_t n, Key threshold, int64_t* samples) {
  int64_t count = 0;
  for (int64_t p = 0; p < n; ++p) {
    samples[count] = p;
    count += (labels[p] > 0) | (keys[p] >= threshold);
  }
  return count;
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
  Scratch<sort_key_t<T>> keys(params.num_priors);
  for (int64_t p = 0; p < params.num_priors; ++p) keys[p] = mining_key(weight[p], labels[p]);
  const int64_t k = num_hard_negatives(mining, positives, background);
  const auto threshold = select_top_k(keys.data(), params.num_priors, k);
  Scratch<int64_t> samples(params.num_priors);
  const int64_t num_samples = list_samples(keys.data(), labels, params.num_priors, threshold.key, samples.data());
  const T sample_weight = T(1) / static_cast<T>(divisor);
  ImageSums sums{0, 0};
  int64_t ties = threshold.num_ties, zeros = 0;  // the first prior whose weight is not yet written
  for (int64_t i = 0; i < num_samples; ++i) {
    const int64_t p = samples[i];
    if (labels[p] <= 0 && keys[p] == threshold.key && ties-- <= 0) continue;
    sums.cls += weight[p];
    if (labels[p] > 0) sums.loc += box_loss<T>(params, first + p);
    for (; zeros < p; ++zeros) weight[zeros] = T(0);
    weight[zeros++] = sample_weight;
  }
  for (; zeros < params.num_priors; ++zeros) weight[zeros] = T(0);
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
