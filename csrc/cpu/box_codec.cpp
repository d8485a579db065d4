#include "cpu/box_codec.h"

#include <algorithm>

#include "core/box_grad.h"
#include "cpu/common/box_arrays.h"
#include "cpu/common/ivdep.h"
#include "cpu/common/vec_math.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// Consecutive rows with consecutive priors; the loop vectorizes.
template <bool decodes, CodeType code, typename T>
void codec_run(const T* __restrict coded, const T* __restrict priors, const Variances<T> var, int64_t count,
               T* __restrict out) {
  SSD_OPS_IVDEP
  for (int64_t i = 0; i < count; ++i) {
    const Box<T> a = load_box(coded, i), prior = load_box(priors, i);
    if constexpr (decodes) store_box(decode<VecMath>(a, prior, code, var), out, i);
    if constexpr (!decodes) store_box(encode<VecMath>(a, prior, code, var), out, i);
  }
}

template <bool decodes, CodeType code, typename T>
void codec_rows(const CodecParams<T>& params, int64_t begin, int64_t end) {
  while (begin < end) {
    const int64_t prior = begin % params.num_priors, count = std::min(end - begin, params.num_priors - prior);
    codec_run<decodes, code>(params.coded + 4 * begin, params.priors + 4 * prior, params.variances, count,
                             params.out + 4 * begin);
    begin += count;
  }
}

template <bool decodes, typename T>
void dispatch_code(const CodecParams<T>& params, int64_t begin, int64_t end) {
  switch (params.code) {
    case CodeType::center_size: return codec_rows<decodes, CodeType::center_size>(params, begin, end);
    case CodeType::corner: return codec_rows<decodes, CodeType::corner>(params, begin, end);
    case CodeType::corner_size: return codec_rows<decodes, CodeType::corner_size>(params, begin, end);
  }
}

// One row of L against `count` priors, at most kPriorBlock.
template <bool decodes, CodeType code, typename T>
void grad_codec_run(const T* __restrict grad, const T* __restrict coded, const T* __restrict priors,
                    const Variances<T> var, int64_t count, T* __restrict grad_coded, T* __restrict grad_priors) {
  SSD_OPS_IVDEP
  for (int64_t i = 0; i < count; ++i) {
    const Box<T> g = load_box(grad, i), a = load_box(coded, i), prior = load_box(priors, i);
    const CodecGrad<T> result =
        decodes ? grad_decode<VecMath>(g, a, prior, code, var) : grad_encode(g, a, prior, code, var);
    store_box(result.coded, grad_coded, i);
    store_box(result.prior, grad_priors, i);
  }
}

template <bool decodes, CodeType code, typename T>
void grad_units(const GradCodecParams<T>& params, int64_t begin, int64_t end) {
  const int64_t prior_blocks = ceil_div(params.num_priors, kPriorBlock);
  T row_grads[4 * kPriorBlock];
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t slice = unit / prior_blocks, prior = unit % prior_blocks * kPriorBlock;
    const int64_t count = std::min(kPriorBlock, params.num_priors - prior);
    const int64_t first = params.leading * slice / params.slices, last = params.leading * (slice + 1) / params.slices;
    double* sums = params.prior_slices + 4 * (slice * params.num_priors + prior);
    std::fill_n(sums, 4 * count, 0.0);
    for (int64_t l = first; l < last; ++l) {
      const int64_t row = 4 * (l * params.num_priors + prior);
      grad_codec_run<decodes, code>(params.grad + row, params.coded + row, params.priors + 4 * prior, params.variances,
                                    count, params.grad_coded + row, row_grads);
      for (int64_t i = 0; i < 4 * count; ++i) sums[i] += static_cast<double>(row_grads[i]);
    }
  }
}

template <bool decodes, typename T>
void dispatch_grad_code(const GradCodecParams<T>& params, int64_t begin, int64_t end) {
  switch (params.code) {
    case CodeType::center_size: return grad_units<decodes, CodeType::center_size>(params, begin, end);
    case CodeType::corner: return grad_units<decodes, CodeType::corner>(params, begin, end);
    case CodeType::corner_size: return grad_units<decodes, CodeType::corner_size>(params, begin, end);
  }
}

template <typename T>
void dispatch_grad(const GradCodecParams<T>& params, int64_t begin, int64_t end) {
  if (params.decodes) return dispatch_grad_code<true>(params, begin, end);
  return dispatch_grad_code<false>(params, begin, end);
}

template <typename T>
void sum_in_order(const double* slices, int64_t count, int64_t size, T* out) {
  for (int64_t i = 0; i < size; ++i) {
    double sum = 0;
    for (int64_t s = 0; s < count; ++s) sum += slices[s * size + i];
    out[i] = static_cast<T>(sum);
  }
}

}  // namespace

void encode_rows(const CodecParams<float>& params, int64_t begin, int64_t end) {
  dispatch_code<false>(params, begin, end);
}
void encode_rows(const CodecParams<double>& params, int64_t begin, int64_t end) {
  dispatch_code<false>(params, begin, end);
}
void decode_rows(const CodecParams<float>& params, int64_t begin, int64_t end) {
  dispatch_code<true>(params, begin, end);
}
void decode_rows(const CodecParams<double>& params, int64_t begin, int64_t end) {
  dispatch_code<true>(params, begin, end);
}
void grad_codec_units(const GradCodecParams<float>& params, int64_t begin, int64_t end) {
  dispatch_grad(params, begin, end);
}
void grad_codec_units(const GradCodecParams<double>& params, int64_t begin, int64_t end) {
  dispatch_grad(params, begin, end);
}
void sum_slices(const double* slices, int64_t count, int64_t size, float* out) {
  sum_in_order(slices, count, size, out);
}
void sum_slices(const double* slices, int64_t count, int64_t size, double* out) {
  sum_in_order(slices, count, size, out);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
