// Detections of a batch: what multiclass_nms, soft_nms and detect share on the CPU and on the GPU.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/dtype.h"
#include "core/suppression.h"

namespace ssd_ops {

// Padded to D detections for each of B images; detections past counts[b] are 0.
template <typename T>
struct DetectionsOut {
  T* boxes;                // [B, D, 4]
  T* scores;               // [B, D]
  int64_t* labels;         // [B, D]
  int64_t* counts;         // [B]
  int64_t* box_indices;    // [B, D]: index of a detection's box among the N boxes of its image
  int64_t max_detections;  // D
};

// How the detections of an image are selected among its candidates. A candidate is a box with one of its classes.
template <typename T>
struct SelectParams {
  const void* scores;  // [B, N, C] of `dtype`: scores, or logits for detect
  Dtype dtype;
  int64_t num_boxes, num_classes;  // N (the priors for detect) and C; N * C is below 2^32
  T score_threshold;               // candidates have this score or a higher one
  int64_t candidates_per_class;
  SuppressionThresholds<T> thresholds;
  T min_size;  // boxes with a shorter side are no candidates; 0: all are
  DetectionsOut<T> out;
};

// If no logit of a prior exceeds the background logit by this margin, no score reaches `score_threshold`: a score is at
// most 1 / (1 + exp(background - logit)). The threshold is lowered by more than the rounding error of a softmax.
template <typename T>
SSD_OPS_HD T min_logit_margin(T score_threshold) {
  const T lowered = score_threshold * T(1 - 1e-4);
  if (!(lowered > T(0))) return -T(INFINITY);
  return lowered < T(1) ? std::log(lowered / (T(1) - lowered)) : T(INFINITY);
}

// The rounding error of a logit bound, relative to its terms.
template <typename T>
constexpr T kLogitRounding = 4 * std::numeric_limits<T>::epsilon();

// A logit up to this bound has a score below the threshold; `margin` is min_logit_margin().
template <typename T>
SSD_OPS_HD T candidate_logit_bound(T background, T margin) {
  return background + margin - (std::abs(background) + std::abs(margin)) * kLogitRounding<T>;
}

// A box clipped to the image, in normalized coordinates. NaN stays.
template <typename T>
SSD_OPS_HD Box<T> clip_to_image(const Box<T>& box) {
  const auto clip = [](T x) { return x < T(0) ? T(0) : x > T(1) ? T(1) : x; };
  return {clip(box.x1), clip(box.y1), clip(box.x2), clip(box.y2)};
}

}  // namespace ssd_ops
