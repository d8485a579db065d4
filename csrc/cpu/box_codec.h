// Encode and decode on the CPU, and their gradients.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "cpu/dispatch/dispatch.h"

namespace ssd_ops::cpu {

// Boxes (or deltas) [L, P, 4] with priors [P, 4].
template <typename T>
struct CodecParams {
  const T* coded;   // [L, P, 4]: boxes to encode or deltas to decode
  const T* priors;  // [P, 4]
  T* out;           // [L, P, 4]
  int64_t num_priors;
  CodeType code;
  Variances<T> variances;
};

// The gradients. The gradient of a prior is a sum over L, in double and in a fixed order: over each of `slices` equal
// parts of L, and then over these partial sums, see sum_slices.
template <typename T>
struct GradCodecParams {
  const T* grad;         // [L, P, 4]
  const T* coded;        // [L, P, 4]
  const T* priors;       // [P, 4]
  T* grad_coded;         // [L, P, 4]
  double* prior_slices;  // [slices, P, 4]
  int64_t leading, num_priors, slices;
  CodeType code;
  Variances<T> variances;
  bool decodes;
};

constexpr int64_t kPriorBlock = 128;  // priors of one work unit of the gradients

}  // namespace ssd_ops::cpu

// Rows begin .. end - 1 of the L * P rows.
SSD_OPS_CPU_KERNEL(void, encode_rows, const CodecParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, encode_rows, const CodecParams<double>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, decode_rows, const CodecParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, decode_rows, const CodecParams<double>& params, int64_t begin, int64_t end)
// Units begin .. end - 1 of the slices * ceil(P / kPriorBlock) units.
SSD_OPS_CPU_KERNEL(void, grad_codec_units, const GradCodecParams<float>& params, int64_t begin, int64_t end)
SSD_OPS_CPU_KERNEL(void, grad_codec_units, const GradCodecParams<double>& params, int64_t begin, int64_t end)
// out[i] = sum over s of slices[s, i], in order of s.
SSD_OPS_CPU_KERNEL(void, sum_slices, const double* slices, int64_t count, int64_t size, float* out)
SSD_OPS_CPU_KERNEL(void, sum_slices, const double* slices, int64_t count, int64_t size, double* out)
