// Encode and decode on the GPU, and their gradients; torch-free.
#pragma once

#include <cstdint>

#include "core/box.h"
#include "core/dtype.h"

namespace ssd_ops {

// All dense and aligned to a box. `coded` has `dtype`; priors, out and gradients are float, double where `dtype` is.

// out[r] = code of coded[r] with priors[r % num_priors], for `rows` rows; `variances` are 4 numbers on the host.
int launch_box_codec(Dtype dtype, bool decodes, CodeType code, const double* variances, const void* coded,
                     const void* priors, void* out, int64_t rows, int64_t num_priors, CUstream_st* stream);

// The number of slices in which the sums over L of [L, P, 4] are computed: a function of the shape alone.
int64_t grad_codec_slices(int64_t leading, int64_t num_priors);

// grad_coded [L, P, 4] has `dtype`; grad_priors [P, 4]; sums is workspace, [slices, P, 4].
int launch_grad_box_codec(Dtype dtype, bool decodes, CodeType code, const double* variances, const void* grad,
                          const void* coded, const void* priors, void* grad_coded, void* grad_priors, double* sums,
                          int64_t leading, int64_t num_priors, CUstream_st* stream);

}  // namespace ssd_ops
