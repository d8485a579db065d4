// What glue hands to launchers: the dtype of a tensor without torch's name for it.
#pragma once

#include "core/dtype.h"
#include "ops/check.h"

namespace ssd_ops {

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    default: return Dtype::f32;
  }
}

}  // namespace ssd_ops
