// How functions are marked that both the CPU and the GPU compile.
//
// Always inlined: on the CPU these headers are compiled once for each instruction set, and a shared copy could be the
// one for a wider instruction set than the machine has.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define SSD_OPS_HD __host__ __device__ __forceinline__
#else
#define SSD_OPS_HD inline __attribute__((always_inline))
#endif

namespace ssd_ops {

// a / b rounded up, for a >= 0 and b > 0; a + b - 1 could overflow, this cannot.
SSD_OPS_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// a rounded up to a multiple of b, for a >= 0 and b > 0.
SSD_OPS_HD constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

}  // namespace ssd_ops
