// exp and log of float and double under one name each.
#pragma once

#include "cuda/common/launch.cuh"

namespace ssd_ops {

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

}  // namespace ssd_ops
