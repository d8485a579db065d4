// What the kernels of the training loss share: their scratch memory, boxes of any dtype.
#pragma once

#include "cuda/load.cuh"
#include "loss.h"

namespace ssd_ops {
namespace {

struct LossScratch {
  unsigned* finished;  // blocks of the last kernel
  int64_t* positives;  // [row_blocks], counted by each block of the first kernel
  double* sums;        // [B, 2], of boxes and of classes, divided by the normaliser
  int64_t row_blocks;
};

template <typename T>
__device__ Box<T> load_box_as(Dtype type, const void* boxes, int64_t i) {
  const auto cast = [](const auto& b) {
    return Box<T>{static_cast<T>(b.x1), static_cast<T>(b.y1), static_cast<T>(b.x2), static_cast<T>(b.y2)};
  };
  switch (type) {
    case Dtype::f64: return cast(load_box(static_cast<const double*>(boxes), i));
    case Dtype::f16: return cast(load_box(static_cast<const __half*>(boxes), i));
    case Dtype::bf16: return cast(load_box(static_cast<const __nv_bfloat16*>(boxes), i));
    default: return cast(load_box(static_cast<const float*>(boxes), i));
  }
}

}  // namespace
}  // namespace ssd_ops
