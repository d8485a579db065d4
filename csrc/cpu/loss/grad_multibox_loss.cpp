#include "cpu/loss/grad_multibox_loss.h"

#include <cstring>

#include "cpu/common/level_runs.h"
#include "cpu/common/scratch.h"
#include "cpu/loss/row_sums.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Zeros with stores that bypass the caches: the gradient is larger than a cache before anything reads it, and a normal
// store would first read the line that it overwrites.
void fill_zero(char* begin, char* end) {
#ifdef __SSE2__
  const auto misaligned = reinterpret_cast<uintptr_t>(begin) % 64;
  if (end - begin >= 1024) {
    if (misaligned != 0) {
      std::memset(begin, 0, 64 - misaligned);
      begin += 64 - misaligned;
    }
    const __m128i zero = _mm_setzero_si128();
    for (; end - begin >= 64; begin += 64)
      for (int k = 0; k < 4; ++k) _mm_stream_si128(reinterpret_cast<__m128i*>(begin) + k, zero);
  }
#endif
  std::memset(begin, 0, static_cast<size_t>(end - begin));
}

// scale * (softmax - one-hot) of one row.
template <typename In, typename T>
void fill_row(const In* __restrict logits, int64_t classes, T lse, T scale, int64_t label, In* __restrict grad) {
  for (int64_t c = 0; c < classes; ++c) grad[c] = narrow<In>(scale * vec_exp(widen(logits[c]) - lse));
  if (label < 0 || label >= classes) return;
  const T target = vec_exp(widen(logits[label]) - lse) - T(1);
  grad[label] = narrow<In>(scale * target);
}

// Sampled rows of a run. Their logits are scattered: copied first, the cache misses of many rows overlap.
template <typename In>
class SampledRows {
  using T = compute_t<In>;

 public:
  SampledRows(const In* logits, int64_t classes, In* grad)
      : logits_(logits), classes_(classes), grad_(grad), packed_(kRows * classes) {}

  // Fills the row at once or in a later call, in finish() at the latest.
  void add(int64_t row, T scale, int64_t label) {
    rows_[count_] = row;
    scales_[count_] = scale;
    labels_[count_] = label;
    if (++count_ == kRows) finish();
  }

  void finish() {
    for (int64_t i = 0; i < count_; ++i)
      std::memcpy(&packed_[i * classes_], logits_ + rows_[i] * classes_, sizeof(In) * static_cast<size_t>(classes_));
    T shifts[kRows], sums[kRows];
    row_sums<kRows>(packed_.data(), count_, classes_, shifts, sums);
    for (int64_t i = 0; i < count_; ++i) sums[i] = vec_log(sums[i]) + shifts[i];
    for (int64_t i = 0; i < count_; ++i)
      fill_row(&packed_[i * classes_], classes_, sums[i], scales_[i], labels_[i], grad_ + rows_[i] * classes_);
    count_ = 0;
  }

 private:
  static constexpr int64_t kRows = 16;
  const In* logits_;
  int64_t classes_;
  In* grad_;
  Scratch<In> packed_;
  int64_t count_ = 0, rows_[kRows], labels_[kRows];
  T scales_[kRows];
};

template <typename In>
void fill_logits(const GradLossParams& params, const LevelRun& run) {
  using T = compute_t<In>;
  const int64_t classes = params.forward.num_classes;
  const In* logits = static_cast<const In*>(params.forward.logits.of[run.level]) + run.row * classes;
  In* grad = static_cast<In*>(params.logits.of[run.level]) + run.row * classes;
  const int64_t* labels = params.forward.labels + run.batch_row;
  const T* weight = static_cast<const T*>(params.forward.weight) + run.batch_row;
  const T grad_loss = *static_cast<const T*>(params.grad_cls_loss);
  SampledRows<In> sampled(logits, classes, grad);
  int64_t zeros = 0;  // the first row that is neither zero nor sampled yet
  for (int64_t r = 0; r < run.count; ++r) {
    const T scale = weight[r] == 0 ? T(0) : weight[r] * grad_loss;
    if (scale == 0) continue;
    fill_zero(reinterpret_cast<char*>(grad + zeros * classes), reinterpret_cast<char*>(grad + r * classes));
    sampled.add(r, scale, labels[r]);
    zeros = r + 1;
  }
  sampled.finish();
  fill_zero(reinterpret_cast<char*>(grad + zeros * classes), reinterpret_cast<char*>(grad + run.count * classes));
}

template <typename Loc, typename T>
void fill_loc(const GradLossParams& params, const LevelRun& run) {
  const T* weight = static_cast<const T*>(params.forward.weight) + run.batch_row;
  const T grad_loss = *static_cast<const T*>(params.grad_loc_loss);
  Loc* grad = static_cast<Loc*>(params.loc.of[run.level]) + 4 * run.row;
  for (int64_t r = 0; r < run.count; ++r) {
    T loc[4], target[4], slope[4] = {};
    if (params.forward.labels[run.batch_row + r] > 0) {
      load_four(params.forward.loc_type, params.forward.loc.of[run.level], run.row + r, loc);
      load_four(params.forward.target_type, params.forward.loc_targets, run.batch_row + r, target);
      const T scale = weight[r] * grad_loss;
      for (int k = 0; k < 4; ++k) slope[k] = scale * smooth_l1_slope(loc[k] - target[k]);
    }
    for (int k = 0; k < 4; ++k) grad[4 * r + k] = narrow<Loc>(static_cast<compute_t<Loc>>(slope[k]));
  }
}

void fill_run(const GradLossParams& params, const LevelRun& run) {
  dispatch_dtype(params.forward.logits_type, [&](auto zero) { fill_logits<decltype(zero)>(params, run); });
  dispatch_dtype(params.forward.loc_type, [&](auto zero) {
    using Loc = decltype(zero);
    if (params.forward.logits_type == Dtype::f64) {
      fill_loc<Loc, double>(params, run);
    } else {
      fill_loc<Loc, float>(params, run);
    }
  });
}

}  // namespace

void grad_loss_rows(const GradLossParams& params, int64_t begin, int64_t end) {
  for_each_run(params.forward.levels, params.forward.batch_size, begin, end,
               [&](const LevelRun& run) { fill_run(params, run); });
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
