// Kernels with every idiom that the emulator supports, compared with expected results: `samples` runs all of them and
// prints one line for each. nvcc compiles the same file, so it is valid CUDA.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {

// Sum of a block: shuffles within a warp, static shared memory between warps, one block a row.
template <typename T>
__global__ void __launch_bounds__(256) row_sum_kernel(const T* __restrict__ x, int columns, T* __restrict__ sums) {
  __shared__ T partial[8];
  T sum = 0;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[static_cast<int64_t>(blockIdx.x) * columns + i];
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_down_sync(kFullMask, sum, offset);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    sum = threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : T(0);
    for (int offset = 16; offset > 0; offset >>= 1) sum += __shfl_xor_sync(kFullMask, sum, offset);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
  }
}

// Transposition through a padded tile, two-dimensional blocks and grids.
__global__ void transpose_kernel(const int* x, int rows, int columns, int* y) {
  __shared__ int tile[32][33];
  const int c = blockIdx.x * 32 + threadIdx.x;
  for (int k = threadIdx.y; k < 32; k += blockDim.y) {
    const int r = blockIdx.y * 32 + k;
    if (r < rows && c < columns) tile[k][threadIdx.x] = x[r * columns + c];
  }
  __syncthreads();
  const int r = blockIdx.y * 32 + threadIdx.x;
  for (int k = threadIdx.y; k < 32; k += blockDim.y) {
    if (blockIdx.x * 32 + k < columns && r < rows) y[(blockIdx.x * 32 + k) * rows + r] = tile[threadIdx.x][k];
  }
}

// Argmax over the grid by a 64-bit atomic, ties to the lowest index; the last block to finish unpacks it.
__global__ void argmax_kernel(const float* x, int n, unsigned long long* best, unsigned* finished, int* index) {
  __shared__ bool is_last;
  unsigned long long mine = 0;
  for (int64_t i = global_thread_index(); i < n; i += num_global_threads()) {
    const unsigned long long key =
        static_cast<unsigned long long>(__float_as_uint(x[i])) << 32 | ~static_cast<unsigned>(i);
    mine = max(mine, key);
  }
  atomicMax(best, mine);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (is_last && threadIdx.x == 0) *index = static_cast<int>(~static_cast<unsigned>(atomicMax(best, 0ull)));
}

// Indices of the positive numbers, in order: ballots, prefix popcounts, and a counting barrier.
__global__ void compact_kernel(const float* x, int n, int* indices, int* count) {
  __shared__ int offsets[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int base = 0;
  for (int start = 0; start < n; start += blockDim.x) {
    const int i = start + threadIdx.x;
    const bool keep = i < n && x[i] > 0.0f;
    const unsigned kept = __ballot_sync(kFullMask, keep);
    if (lane == 0) offsets[warp] = __popc(kept);
    const int total = __syncthreads_count(keep);
    int before = base;
    for (int w = 0; w < warp; ++w) before += offsets[w];
    if (keep) indices[before + __popc(kept & ((1u << lane) - 1))] = i;
    base += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) *count = base;
}

// Bitonic sort of n keys, a power of two, in dynamic shared memory.
__global__ void sort_kernel(unsigned long long* keys, int n) {
  unsigned long long* s = dynamic_shared<unsigned long long>();
  for (int i = threadIdx.x; i < n; i += blockDim.x) s[i] = keys[i];
  __syncthreads();
  for (int size = 2; size <= n; size *= 2) {
    for (int stride = size / 2; stride > 0; stride /= 2) {
      for (int i = threadIdx.x; i < n / 2; i += blockDim.x) {
        const int low = 2 * i - (i & (stride - 1));
        const bool up = (low & size) == 0;
        if ((s[low] > s[low + stride]) == up) {
          const unsigned long long t = s[low];
          s[low] = s[low + stride];
          s[low + stride] = t;
        }
      }
      __syncthreads();
    }
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) keys[i] = s[i];
}

// Byte histogram by warp-aggregated atomics: lanes with one digit elect the lowest, which adds for all.
__global__ void histogram_kernel(const unsigned char* x, int n, unsigned* counts) {
  __shared__ unsigned bins[256];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
  __syncthreads();
  for (int start = 0; start < n; start += blockDim.x) {
    const int i = start + threadIdx.x;
    const int digit = i < n ? x[i] : 256;
    const unsigned peers = __match_any_sync(kFullMask, digit);
    if (digit < 256 && __ffs(peers) - 1 == static_cast<int>(threadIdx.x % 32)) atomicAdd(&bins[digit], __popc(peers));
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += blockDim.x) counts[i] = bins[i];
}

// Prefix sum of a warp through shared memory with __syncwarp(), then of segments of 8 by shuffles of that width.
__global__ void scan_kernel(const int* x, int* whole, int* eights) {
  __shared__ int s[2][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  s[warp][lane] = x[threadIdx.x];
  __syncwarp();
  for (int d = 1; d < 32; d *= 2) {
    const int add = lane >= d ? s[warp][lane - d] : 0;
    __syncwarp();
    s[warp][lane] += add;
    __syncwarp();
  }
  whole[threadIdx.x] = s[warp][lane];
  int v = x[threadIdx.x];
  for (int d = 1; d < 8; d *= 2) {
    const int add = __shfl_up_sync(kFullMask, v, d, 8);
    if (lane % 8 >= d) v += add;
  }
  eights[threadIdx.x] = v;
}

// Two halves of a warp work apart, each with its own mask; then votes of all.
__global__ void halves_kernel(int* out) {
  const int lane = threadIdx.x;
  unsigned mask;
  int v;
  if (lane < 16) {
    mask = 0x0000ffffu;
    v = __shfl_sync(mask, lane, 3);
  } else {
    mask = 0xffff0000u;
    v = __shfl_sync(mask, lane, 20) + __popc(__ballot_sync(mask, lane % 2));
  }
  __syncwarp();
  const int all = __all_sync(kFullMask, v > 0), any = __any_sync(kFullMask, v == 28);
  out[lane] = v + 100 * all + 1000 * any + 10000 * __syncthreads_or(lane == 5) + 100000 * __syncthreads_and(lane < 31);
}

// Vector loads, half and bfloat16.
__global__ void convert_kernel(const float4* x, __half* h, __nv_bfloat16* b, int n) {
  const int i = static_cast<int>(global_thread_index());
  if (i >= n) return;
  const float4 v = __ldg(x + i);
  h[i] = __float2half_rn(__fadd_rn(__fmul_rn(v.x, v.y), v.z));
  b[i] = __float2bfloat16_rn(__fdiv_rn(v.z, v.w));
}
}  // namespace
}  // namespace ssd_ops

#ifdef SSD_OPS_EMULATED
#include "samples_main.h"
#else
// References all kernels, so that nvcc compiles each of them.
void* const all_kernels[] = {
    reinterpret_cast<void*>(ssd_ops::row_sum_kernel<float>), reinterpret_cast<void*>(ssd_ops::row_sum_kernel<double>),
    reinterpret_cast<void*>(ssd_ops::transpose_kernel),      reinterpret_cast<void*>(ssd_ops::argmax_kernel),
    reinterpret_cast<void*>(ssd_ops::compact_kernel),        reinterpret_cast<void*>(ssd_ops::sort_kernel),
    reinterpret_cast<void*>(ssd_ops::histogram_kernel),      reinterpret_cast<void*>(ssd_ops::scan_kernel),
    reinterpret_cast<void*>(ssd_ops::halves_kernel),         reinterpret_cast<void*>(ssd_ops::convert_kernel),
};
#endif
