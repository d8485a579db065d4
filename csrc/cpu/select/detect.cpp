#include "cpu/select/detect.h"

#include "cpu/common/rows.h"
#include "cpu/common/vec_math.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

constexpr int kLanes = 16;  // of the sums, on every instruction set

// A row whose highest logit is not this far above the background's has no score of `floor`: a score is at most
// 1 / (1 + exp(background - logit)). The floor is lowered by more than the roundings of a softmax.
template <typename T>
T least_lead(T floor) {
  const T lowered = floor * T(1 - 1e-4);
  if (!(lowered > T(0))) return -std::numeric_limits<T>::infinity();
  return lowered < T(1) ? std::log(lowered / (T(1) - lowered)) : std::numeric_limits<T>::infinity();
}

template <typename In>
class Logits {
  using T = compute_t<In>;

 public:
  explicit Logits(const DetectTask<T>& task)
      : task_(task), padded_((task.select.classes + kLanes - 1) / kLanes * kLanes), row_(padded_), scores_(padded_) {
    for (int64_t c = task.select.classes; c < padded_; ++c) row_[c] = -std::numeric_limits<T>::infinity();
  }

  // One pass over the logits; the softmax is computed only for rows that may have a candidate. A NaN or inf makes the
  // row's sum NaN, and then no score counts.
  void scan(int64_t image, int64_t begin, int64_t end, Page<T>& page) {
    const SelectTask<T>& task = task_.select;
    const int64_t classes = task.classes;
    const In* logits = static_cast<const In*>(task.scores);
    T floor = page.floor, lead = least_lead(floor);
    for (int64_t row = begin; row < end; ++row) {
      const T* logit = widened_row(logits, image * task.rows + row, classes, row_.data());
      const T limit = logit[0] + lead,
              slack = (std::abs(logit[0]) + std::abs(lead)) * std::numeric_limits<T>::epsilon() * 4;
      if (floor > T(0) && !any_above<false>(logit, classes, limit - slack)) continue;
      if (task_.best_only && !any_above<false>(logit, classes, logit[0])) continue;
      const T top = softmax(logit);
      for (int64_t c = 1; c < classes; ++c) {
        if (task_.best_only && logit[c] != top) continue;
        if (scores_[c] >= page.floor) page.add(scores_[c], static_cast<uint32_t>(c * task.rows + row));
        if (task_.best_only) break;
      }
      if (page.floor != floor) {
        floor = page.floor;
        lead = least_lead(floor);
      }
    }
  }

  Box<T> box(int64_t image, int64_t row, int64_t) const {
    Box<T> b = decode<VecMath>(task_.loc[image * task_.select.rows + row], task_.priors[row], CodeType::center_size,
                               task_.variances);
    if (task_.clip) b = {clipped(b.x1), clipped(b.y1), clipped(b.x2), clipped(b.y2)};
    return b;
  }

 private:
  static T clipped(T x) { return x < T(0) ? T(0) : x > T(1) ? T(1) : x; }

  // Fills scores_ and returns the highest logit.
  T softmax(const T* logit) {
    if (logit != row_.data()) std::memcpy(row_.data(), logit, sizeof(T) * static_cast<size_t>(task_.select.classes));
    const T* __restrict x = row_.data();
    T* __restrict e = scores_.data();
    T highest[kLanes], sums[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      highest[l] = x[l];
      sums[l] = T(0);
    }
    for (int64_t c = kLanes; c < padded_; c += kLanes)
      for (int l = 0; l < kLanes; ++l) highest[l] = greater(x[c + l], highest[l]);
    for (int l = 1; l < kLanes; ++l) highest[0] = greater(highest[l], highest[0]);
    const T top = highest[0];
    for (int64_t c = 0; c < padded_; c += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        e[c + l] = vec_exp(x[c + l] - top);
        sums[l] += e[c + l];
      }
    }
    for (int step = kLanes / 2; step > 0; step /= 2)
      for (int l = 0; l < step; ++l) sums[l] += sums[l + step];
    const T sum = sums[0];
    for (int64_t c = 0; c < padded_; ++c) e[c] = e[c] / sum;
    return top;
  }

  const DetectTask<T>& task_;
  int64_t padded_;
  Scratch<T> row_, scores_;
};

template <typename T>
void scan(const DetectTask<T>& task, int64_t begin, int64_t end) {
  with_dtype<T>(task.select.dtype, [&](auto type) {
    Logits<decltype(type)> source(task);
    scan_parts(task.select, source, begin, end);
  });
}

template <typename T>
void images(const DetectTask<T>& task, int64_t begin, int64_t end) {
  with_dtype<T>(task.select.dtype, [&](auto type) {
    Logits<decltype(type)> source(task);
    Selection<T> selection(task.select);
    for (int64_t image = begin; image < end; ++image) selection.image(source, image);
  });
}

}  // namespace

void scan_logits(const DetectTask<float>& task, int64_t begin, int64_t end) { scan(task, begin, end); }
void scan_logits(const DetectTask<double>& task, int64_t begin, int64_t end) { scan(task, begin, end); }
void detect(const DetectTask<float>& task, int64_t begin, int64_t end) { images(task, begin, end); }
void detect(const DetectTask<double>& task, int64_t begin, int64_t end) { images(task, begin, end); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
