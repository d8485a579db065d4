// The dtypes of inputs, named without torch, and the dtype that kernels compute in.
#pragma once

#include <type_traits>

struct CUstream_st;  // cudaStream_t is a pointer to it; a launcher's int is a cudaError_t: csrc/ops needs no CUDA
                     // headers

namespace ssd_ops {

enum class Dtype { f32, f64, f16, bf16 };

// The dtype in which inputs of type In are computed: half precision becomes float, double stays.
template <typename In>
using compute_t = std::conditional_t<std::is_same_v<In, double>, double, float>;

}  // namespace ssd_ops
