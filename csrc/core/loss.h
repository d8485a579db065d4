// What host and device share of the training loss: its tensors, smooth L1, and which background priors take part.
#pragma once

#include <cstring>

#include "core/box.h"
#include "core/dtype.h"

namespace ssd_ops {

// Dense tensors. T, the dtype of the arithmetic, is double where `logits_type` is f64 and float otherwise.
struct LossTask {
  Dtype logits_type, loc_type, target_type;
  const void* loc;          // [B, P, 4]
  const void* logits;       // [B, P, C]
  const void* loc_targets;  // [B, P, 4]
  const int64_t* labels;    // [B, P]
  int64_t images, priors, classes;
  void* lse;     // T [B, P]
  void* weight;  // T [B, P]; the forward pass keeps the cross entropy here until it has mined
};

struct GradLossTask {
  LossTask forward;                           // with lse and weight as the forward pass left them
  const void *grad_loc_loss, *grad_cls_loss;  // T, one number each
  void* grad_loc;                             // [B, P, 4], dtype of loc
  void* grad_logits;                          // [B, P, C], dtype of the logits
};

// Smooth L1 with beta 1, and its slope; NaN stays NaN.
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

struct Division {
  Normalizer by;
  int64_t images;  // of the batch, also where it is mined as one image
};

template <typename T>
SSD_OPS_HD T loss_norm(const Division& division, int64_t positives_of_image, int64_t positives_of_batch) {
  if (division.by == Normalizer::batch_size) return static_cast<T>(division.images);
  if (division.by == Normalizer::batch) return static_cast<T>(positives_of_batch > 1 ? positives_of_batch : 1);
  return static_cast<T>(positives_of_image > 1 ? positives_of_image : 1) * static_cast<T>(division.images);
}

// How many of an image's background priors take part.
SSD_OPS_HD int64_t negatives_wanted(const Mining& mining, int64_t positives, int64_t background) {
  const double ratio = mining.neg_pos_ratio * static_cast<double>(positives);  // NaN for inf * 0
  const int64_t by_ratio = ratio < static_cast<double>(background) ? static_cast<int64_t>(ratio) : background;
  const int64_t wanted = ratio == ratio && by_ratio > mining.min_negatives ? by_ratio : mining.min_negatives;
  return wanted < background ? wanted : background;
}

// An integer that rises with the cross entropy of a background prior, which is never below 0: the bits of the number,
// plus 1. NaN is the highest. 0 for priors that are not background.
template <typename T>
struct MiningKey {
  using type = uint32_t;
};
template <>
struct MiningKey<double> {
  using type = uint64_t;
};
template <typename T>
SSD_OPS_HD typename MiningKey<T>::type mining_key(T cross_entropy, int64_t label) {
  using Key = typename MiningKey<T>::type;
  Key bits;
  memcpy(&bits, &cross_entropy, sizeof(bits));
  const Key key = cross_entropy == cross_entropy ? bits + 1 : ~Key(0);
  return label == 0 ? key : 0;
}

// Every key above `key` is taken, and of those equal to it the first `ties`.
template <typename Key>
struct MiningCut {
  Key key;
  int64_t ties;
};

constexpr int kMiningDigit = 11;  // bits of a key that one step of the selection decides

}  // namespace ssd_ops
