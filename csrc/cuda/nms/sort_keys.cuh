// The scores of any dtype as sort keys: a lower key precedes.
#pragma once

#include "core/ordered_key.h"
#include "cuda/common/load.cuh"
#include "cuda/nms/nms.h"

namespace ssd_ops {
namespace {

// The key of a score of float64 has 64 bits; 32 suffice for the other dtypes.
template <typename Key>
__device__ __forceinline__ Key load_key(const NmsInputs& in, int64_t i) {
  if constexpr (sizeof(Key) == sizeof(uint64_t)) {
    return descending_key_nan_first(static_cast<const double*>(in.scores)[i]);
  } else {
    switch (in.score_type) {
      case Dtype::f16: return descending_key_nan_first(widen(static_cast<const __half*>(in.scores)[i]));
      case Dtype::bf16: return descending_key_nan_first(widen(static_cast<const __nv_bfloat16*>(in.scores)[i]));
      default: return descending_key_nan_first(static_cast<const float*>(in.scores)[i]);
    }
  }
}

}  // namespace
}  // namespace ssd_ops
