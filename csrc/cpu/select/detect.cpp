#include "cpu/select/detect.h"

#include "cpu/common/rows.h"
#include "cpu/common/vec_math.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Partial sums of a softmax: the same number on every instruction set, so that all of them give the same bits.
constexpr int kLanes = 16;

template <typename In>
class Logits {
  using T = compute_t<In>;

 public:
  explicit Logits(const DetectParams<T>& params)
      : params_(params),
        padded_((params.select.num_classes + kLanes - 1) / kLanes * kLanes),
        row_(padded_),
        scores_(padded_) {
    for (int64_t c = params.select.num_classes; c < padded_; ++c) row_[c] = -std::numeric_limits<T>::infinity();
  }

  void scan(int64_t image, int64_t begin, int64_t end, CandidateBuffer<T>& buffer) {
    const Levels& levels = params_.levels;
    for (int level = 0; level < levels.count; ++level) {
      const int64_t first = levels.first_prior[level], last = levels.first_prior[level + 1];
      if (begin < last && end > first)
        scan_level(level, image, begin > first ? begin : first, end < last ? end : last, buffer);
    }
  }

  Box<T> box(int64_t image, int64_t prior, int64_t) const {
    const LevelRow at = level_row(params_.levels, image, prior);
    const Box<T> box = decode<VecMath>(params_.loc.of[at.level][at.row], params_.priors[prior], CodeType::center_size,
                                       params_.variances);
    return params_.clip ? clip_to_image(box) : box;
  }

 private:
  // One pass over the logits; the softmax is computed only for priors that may have a candidate. A NaN or inf among the
  // logits makes their sum NaN, and then no score is a candidate.
  void scan_level(int level, int64_t image, int64_t begin, int64_t end, CandidateBuffer<T>& buffer) {
    const SelectParams<T>& params = params_.select;
    const int64_t num_classes = params.num_classes;
    const In* logits = static_cast<const In*>(params_.logits.of[level]);
    const int64_t first_row = image * params_.levels.num_priors(level) - params_.levels.first_prior[level];
    T min_score = buffer.min_score, margin = min_logit_margin(min_score);
    for (int64_t prior = begin; prior < end; ++prior) {
      const T* logit = widened_row(logits, first_row + prior, num_classes, row_.data());
      if (min_score > T(0) && !any_above<false>(logit, num_classes, candidate_logit_bound(logit[0], margin))) continue;
      if (params_.best_only && !any_above<false>(logit, num_classes, logit[0])) continue;
      const T max_logit = softmax(logit);
      for (int64_t c = 1; c < num_classes; ++c) {
        if (params_.best_only && logit[c] != max_logit) continue;
        if (scores_[c] >= buffer.min_score) buffer.add(scores_[c], static_cast<uint32_t>(c * params.num_boxes + prior));
        if (params_.best_only) break;
      }
      if (buffer.min_score != min_score) {
        min_score = buffer.min_score;
        margin = min_logit_margin(min_score);
      }
    }
  }

  // Fills scores_ and returns the maximum logit.
  T softmax(const T* logit) {
    if (logit != row_.data())
      std::memcpy(row_.data(), logit, sizeof(T) * static_cast<size_t>(params_.select.num_classes));
    const T* __restrict x = row_.data();
    T* __restrict e = scores_.data();
    T maxima[kLanes], sums[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      maxima[l] = x[l];
      sums[l] = T(0);
    }
    for (int64_t c = kLanes; c < padded_; c += kLanes)
      for (int l = 0; l < kLanes; ++l) maxima[l] = greater(x[c + l], maxima[l]);
    for (int l = 1; l < kLanes; ++l) maxima[0] = greater(maxima[l], maxima[0]);
    const T max_logit = maxima[0];
    for (int64_t c = 0; c < padded_; c += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        e[c + l] = vec_exp(x[c + l] - max_logit);
        sums[l] += e[c + l];
      }
    }
    for (int step = kLanes / 2; step > 0; step /= 2)
      for (int l = 0; l < step; ++l) sums[l] += sums[l + step];
    const T sum = sums[0];
    for (int64_t c = 0; c < padded_; ++c) e[c] = e[c] / sum;
    return max_logit;
  }

  const DetectParams<T>& params_;
  int64_t padded_;
  Scratch<T> row_, scores_;
};

}  // namespace

void scan_logits(const DetectParams<float>& params, int64_t begin, int64_t end) {
  scan_as_dtype<Logits>(params, begin, end);
}
void scan_logits(const DetectParams<double>& params, int64_t begin, int64_t end) {
  scan_as_dtype<Logits>(params, begin, end);
}
void detect(const DetectParams<float>& params, int64_t begin, int64_t end) {
  select_images<Logits>(params, begin, end);
}
void detect(const DetectParams<double>& params, int64_t begin, int64_t end) {
  select_images<Logits>(params, begin, end);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
