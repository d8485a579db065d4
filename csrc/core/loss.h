// What host and device share of the training loss: its tensors, smooth L1, and the selection of hard negatives.
#pragma once

#include "core/box.h"
#include "core/dtype.h"
#include "core/levels.h"
#include "core/ordered_key.h"

namespace ssd_ops {

// Dense tensors. T, the dtype of the arithmetic, is double if `logits_type` is f64 and float otherwise.
struct LossParams {
  Dtype logits_type, loc_type, target_type;
  Levels levels;
  LevelPointers<const void> loc;     // rows of 4
  LevelPointers<const void> logits;  // rows of C
  const void* loc_targets;           // [B, P, 4]
  const int64_t* labels;             // [B, P]: 0 background, -1 ignored
  int64_t batch_size, num_classes;
  int64_t num_images, num_priors;  // of mining: 1 and B * P where the batch is mined as one image, else B and P
  // T [B, P]: the weight of a sampled prior in cls_loss, else 0. Until a prior is mined, its cross entropy is here, on
  // a GPU its sort key.
  void* weight;

  SSD_OPS_HD void* cross_entropy() const { return weight; }
};

struct GradLossParams {
  LossParams forward;                         // with the weights that the forward pass has written
  const void *grad_loc_loss, *grad_cls_loss;  // T, one number each
  LevelPointers<void> loc;                    // their gradients, with the rows and dtypes of loc and logits
  LevelPointers<void> logits;
};

// Smooth L1 with beta 1, and its derivative; NaN stays NaN.
template <typename T>
SSD_OPS_HD T smooth_l1(T difference) {
  const T distance = std::abs(difference);
  return distance < T(1) ? T(0.5) * distance * distance : distance - T(0.5);
}
template <typename T>
SSD_OPS_HD T smooth_l1_slope(T difference) {
  if (difference < T(-1)) return T(-1);
  return difference > T(1) ? T(1) : difference;
}

struct Mining {
  double neg_pos_ratio;
  int64_t min_negatives;
};

// What the losses of an image are divided by.
enum class Normalizer { batch, image, batch_size };

struct Normalization {
  Normalizer normalizer;
  int64_t num_images;  // of the batch, also if mining treats the batch as one image
};

template <typename T>
SSD_OPS_HD T loss_divisor(const Normalization& normalization, int64_t positives_of_image, int64_t positives_of_batch) {
  const T num_images = static_cast<T>(normalization.num_images);
  if (normalization.normalizer == Normalizer::batch_size) return num_images;
  if (normalization.normalizer == Normalizer::batch)
    return static_cast<T>(positives_of_batch > 1 ? positives_of_batch : 1);
  return static_cast<T>(positives_of_image > 1 ? positives_of_image : 1) * num_images;
}

// The number of negatives of an image that are sampled: k of the top-k of its background priors by cross entropy.
SSD_OPS_HD int64_t num_hard_negatives(const Mining& mining, int64_t positives, int64_t background) {
  const double ratio = mining.neg_pos_ratio * static_cast<double>(positives);  // NaN for inf * 0
  const int64_t by_ratio = ratio < static_cast<double>(background) ? static_cast<int64_t>(ratio) : background;
  const int64_t wanted = ratio == ratio && by_ratio > mining.min_negatives ? by_ratio : mining.min_negatives;
  return wanted < background ? wanted : background;
}

// The sort key of a prior for mining, ascending with its cross entropy, which is never below 0: the bits of the number
// plus 1. NaN has the highest key, a prior that is not background the key 0.
template <typename T>
SSD_OPS_HD sort_key_t<T> mining_key(T cross_entropy, int64_t label) {
  using Key = sort_key_t<T>;
  const Key key = cross_entropy == cross_entropy ? to_bits(cross_entropy) + 1 : ~Key(0);
  return label == 0 ? key : 0;
}

// The result of radix select: all keys above `key` are selected, and of those equal to it the first `num_ties`.
template <typename Key>
struct KeyThreshold {
  Key key;
  int64_t num_ties;
};

constexpr int kRadixBits = 11;  // bits of a key that one pass of the radix select determines

}  // namespace ssd_ops
