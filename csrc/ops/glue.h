// What every op's glue does after its checks: choose the dtype of the arithmetic, allocate, and route to CPU or CUDA.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "ops/check.h"
#include "ops/cuda_stream.h"

// The emulated build (tests/emu) compiles the same glue with the CUDA kernels behind CPU tensors, under a name of its
// own.
#ifdef SSD_OPS_EMULATED
#define SSD_OPS_NAMESPACE ssd_ops_emu
#else
#define SSD_OPS_NAMESPACE ssd_ops
#endif
#define SSD_OPS_LIBRARY(m) SSD_OPS_LIBRARY_IN(SSD_OPS_NAMESPACE, m)
#define SSD_OPS_LIBRARY_IN(space, m) STABLE_TORCH_LIBRARY(space, m)
#define SSD_OPS_LIBRARY_IMPL(key, m) SSD_OPS_LIBRARY_IMPL_IN(SSD_OPS_NAMESPACE, key, m)
#define SSD_OPS_LIBRARY_IMPL_IN(space, key, m) STABLE_TORCH_LIBRARY_IMPL(space, key, m)

// Registers a function for the CPU and, where CUDA kernels are linked, for CUDA: SSD_OPS_REGISTER(nms, nms)
#if defined(SSD_OPS_WITH_CUDA) && !defined(SSD_OPS_EMULATED)
#define SSD_OPS_REGISTER(name, function)                                \
  SSD_OPS_LIBRARY_IMPL(CPU, m) { m.impl(#name, TORCH_BOX(&function)); } \
  SSD_OPS_LIBRARY_IMPL(CUDA, m) { m.impl(#name, TORCH_BOX(&function)); }
#else
#define SSD_OPS_REGISTER(name, function) \
  SSD_OPS_LIBRARY_IMPL(CPU, m) { m.impl(#name, TORCH_BOX(&function)); }
#endif

namespace ssd_ops {

// Whether the CUDA kernels serve this tensor.
inline bool uses_cuda_kernels([[maybe_unused]] const Tensor& t) {
#if defined(SSD_OPS_EMULATED)
  return true;
#elif defined(SSD_OPS_WITH_CUDA)
  return t.is_cuda();
#else
  return false;
#endif
}

// float64 where one is float64, else float32: half precision is computed in float32.
inline ScalarType compute_dtype(std::initializer_list<ScalarType> types) {
  for (const ScalarType type : types)
    if (type == ScalarType::Double) return ScalarType::Double;
  return ScalarType::Float;
}

// Dense, in `dtype`, and starting at a multiple of `alignment` bytes, so that kernels may load whole boxes at once.
inline Tensor dense(const Tensor& t, ScalarType dtype, size_t alignment = 32) {
  Tensor result = t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  if (!result.is_contiguous()) result = torch::stable::contiguous(result);  // the call alone costs 0.3 us
  if (reinterpret_cast<uintptr_t>(result.const_data_ptr()) % alignment != 0) result = torch::stable::clone(result);
  return result;
}
inline Tensor dense(const Tensor& t) { return dense(t, t.scalar_type()); }

inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(like, shape, dtype);
}

// Calls f with a value of the C++ type of `dtype`, which must be float32 or float64: dispatch_compute(dtype, [&](auto
// t) { using T = decltype(t); ... });
template <typename F>
decltype(auto) dispatch_compute(ScalarType dtype, F&& f) {
  if (dtype == ScalarType::Double) return f(double());
  return f(float());
}

// As dispatch_compute, for the four dtypes that inputs may have.
template <typename F>
decltype(auto) dispatch_floating(ScalarType dtype, F&& f) {
  switch (dtype) {
    case ScalarType::Double: return f(double());
    case ScalarType::Half: return f(torch::headeronly::Half());
    case ScalarType::BFloat16: return f(torch::headeronly::BFloat16());
    default: return f(float());
  }
}

}  // namespace ssd_ops
