// The dtypes of inputs, named without torch, for launchers.
#pragma once

struct CUstream_st;  // cudaStream_t is a pointer to it; a launcher's int is a cudaError_t: glue needs no CUDA headers

namespace ssd_ops {

enum class Dtype { f32, f64, f16, bf16 };

}  // namespace ssd_ops
