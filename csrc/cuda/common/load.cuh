// Loads of boxes and numbers of the four dtypes: half precision is widened to float, double stays.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/box.h"
#include "core/dtype.h"
#include "cuda/common/launch.cuh"

namespace ssd_ops {

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename Out>
__device__ __forceinline__ Out narrow(compute_t<Out> x) {
  if constexpr (sizeof(Out) >= sizeof(float)) {
    return x;
  } else if constexpr (std::is_same_v<Out, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

// Box number i of [N, 4], one aligned load.
template <typename In>
__device__ __forceinline__ Box<compute_t<In>> load_box(const In* boxes, int64_t i) {
  const Box<In> raw = reinterpret_cast<const Box<In>*>(boxes)[i];
  return {widen(raw.x1), widen(raw.y1), widen(raw.x2), widen(raw.y2)};
}

// Box number i of [N, 4], of a dtype that is only known at run time.
template <typename T>
__device__ __forceinline__ Box<T> load_box_as(Dtype type, const void* boxes, int64_t i) {
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

inline int bytes_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// Calls f with a value of the type of `dtype`.
template <typename F>
cudaError_t dispatch_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f64: return f(double());
    case Dtype::f16: return f(__half());
    case Dtype::bf16: return f(__nv_bfloat16());
    default: return f(float());
  }
}

}  // namespace ssd_ops
