// What every op includes: validation, tensor access, registration, and the choice between CPU and CUDA kernels.
#pragma once

#include <torch/csrc/stable/library.h>

#include "ops/check.h"
#include "ops/cuda_stream.h"
#include "ops/tensor_access.h"

// The emulated build (tests/emu) compiles the same sources with the CUDA kernels for CPU tensors, under its own name.
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

// Whether this tensor goes to the CUDA kernels.
inline bool uses_cuda_kernels([[maybe_unused]] const Tensor& t) {
#if defined(SSD_OPS_EMULATED)
  return true;
#elif defined(SSD_OPS_WITH_CUDA)
  return t.is_cuda();
#else
  return false;
#endif
}

}  // namespace ssd_ops
