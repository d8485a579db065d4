// Kernels with one bug each, which the emulator must detect: `planted NAME` runs one. test_emulator.py has the expected
// message of each. If the kernel is not stopped, its output is printed, to be compared between seeds.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {

__global__ void dropped_barrier_kernel(int* out) {
  __shared__ int s[128];
  s[threadIdx.x] = 0;
  __syncthreads();
  s[threadIdx.x] = threadIdx.x + 1;
  // here a barrier is missing
  out[threadIdx.x] = s[(threadIdx.x + 64) % 128];
}

__global__ void dropped_syncwarp_kernel(int* out) {
  __shared__ int s[32];
  s[threadIdx.x] = threadIdx.x;
  __syncwarp();
  s[threadIdx.x] = s[(threadIdx.x + 1) % 32];  // reads and writes in one step, as if a warp moved in lock step
  __syncwarp();
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void divergent_barrier_kernel(int* out) {
  if (threadIdx.x < 32) {
    __syncthreads();  // divergent: first
  } else {
    __syncthreads();  // divergent: second
  }
  out[threadIdx.x] = 1;
}

__global__ void early_exit_kernel(int* out, int n) {
  if (static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

__global__ void waiting_elsewhere_kernel(int* out) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  out[threadIdx.x] = __shfl_sync(kFullMask, 1, 0);
}

__global__ void mask_of_ended_lanes_kernel(int* out) {
  if (threadIdx.x >= 20) return;
  out[threadIdx.x] = __ballot_sync(kFullMask, 1);
}

__global__ void mask_without_caller_kernel(int* out) { out[threadIdx.x] = __any_sync(0x0000ffffu, 1); }

__global__ void different_masks_kernel(int* out) {
  const unsigned mask = threadIdx.x == 7 ? 0xffffffffu : 0x7fffffffu | 1u << threadIdx.x;
  out[threadIdx.x] = __shfl_xor_sync(mask, 1, 1);
}

__global__ void shuffle_from_absent_kernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_down_sync(0xffffu, static_cast<int>(threadIdx.x), 4);
}

// Out of line, so that the compiler does not see the size of what is stored to.
__device__ __attribute__((noinline)) void store(int* where, int at) { where[at] = at; }

__global__ void static_overrun_kernel(int* out, int n) {
  __shared__ int s[64];
  store(s, threadIdx.x + n);
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void dynamic_overrun_kernel(int* out, int n) {
  int* s = dynamic_shared<int>();
  store(s, threadIdx.x + n);
  __syncthreads();
  out[threadIdx.x] = s[threadIdx.x];
}

__global__ void global_overrun_kernel(int* out, int n) { store(out, threadIdx.x + n); }

__global__ void local_overrun_kernel(int* out, int n) {
  int local[4] = {1, 2, 3, 4};
  store(local, threadIdx.x % 4 + n);
  out[threadIdx.x] = local[threadIdx.x % 4];
}

__global__ void misaligned_kernel(const float* x, int* out) {
  const float4 v = *reinterpret_cast<const float4*>(x + threadIdx.x);
  out[threadIdx.x] = static_cast<int>(v.w);
}

__global__ void overflow_kernel(int* out, int n) { out[threadIdx.x] = n * static_cast<int>(threadIdx.x + 1); }

__global__ void unwritten_static_kernel(int* out) {
  __shared__ int s[128];
  if (threadIdx.x != 5) s[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = s[127 - threadIdx.x];
}

__global__ void unwritten_dynamic_kernel(int* out) {
  float* s = dynamic_shared<float>();
  if (threadIdx.x == 0) s[0] = 3.0f;
  __syncthreads();
  out[threadIdx.x] = static_cast<int>(fmaxf(s[0], s[1]) > 3.0f);
}

__global__ void leftover_kernel(int* out) {  // the first block to run leaves a number for the others
  __shared__ int s;
  if (blockIdx.x == 0 && threadIdx.x == 0) s = 7;
  __syncthreads();
  if (threadIdx.x == 0) out[blockIdx.x] = s;
}

__global__ void order_of_threads_kernel(int* out, int* count) { out[atomicAdd(count, 1)] = threadIdx.x; }

__global__ void order_of_blocks_kernel(int* out, int* count) {
  if (threadIdx.x == 0) out[atomicAdd(count, 1)] = blockIdx.x;
}

__global__ void atomic_and_plain_kernel(int* out) {
  __shared__ int total;
  if (threadIdx.x == 0) total = 0;
  __syncthreads();
  atomicAdd(&total, 1);
  if (threadIdx.x == 31) out[0] = total;  // while others still add
}

}  // namespace
}  // namespace ssd_ops

int main(int, char** arguments) {
  using namespace ssd_ops;
  std::vector<int> out(256, 0);
  std::vector<float> x(256, 1.0f);
  int count = 0;
  int* o = out.data();
  const auto is = [&](const char* name) { return std::strcmp(arguments[1], name) == 0; };
  cudaError_t status = cudaErrorInvalidValue;
  if (is("dropped_barrier")) status = launch(dropped_barrier_kernel, 1, 128, 0, nullptr, o);
  if (is("dropped_syncwarp")) status = launch(dropped_syncwarp_kernel, 1, 32, 0, nullptr, o);
  if (is("divergent_barrier")) status = launch(divergent_barrier_kernel, 2, 64, 0, nullptr, o);
  if (is("early_exit")) status = launch(early_exit_kernel, 1, 64, 0, nullptr, o, 63);
  if (is("waiting_elsewhere")) status = launch(waiting_elsewhere_kernel, 1, 64, 0, nullptr, o);
  if (is("mask_of_ended_lanes")) status = launch(mask_of_ended_lanes_kernel, 1, 32, 0, nullptr, o);
  if (is("mask_without_caller")) status = launch(mask_without_caller_kernel, 1, 32, 0, nullptr, o);
  if (is("different_masks")) status = launch(different_masks_kernel, 1, 32, 0, nullptr, o);
  if (is("shuffle_from_absent")) status = launch(shuffle_from_absent_kernel, 1, 32, 0, nullptr, o);
  if (is("static_overrun")) status = launch(static_overrun_kernel, 1, 64, 0, nullptr, o, 1);
  if (is("dynamic_overrun")) status = launch(dynamic_overrun_kernel, 1, 63, 63 * 4, nullptr, o, 1);
  if (is("global_overrun")) status = launch(global_overrun_kernel, 4, 64, 0, nullptr, o, 193);
  if (is("local_overrun")) status = launch(local_overrun_kernel, 1, 64, 0, nullptr, o, 1);
  if (is("misaligned")) status = launch(misaligned_kernel, 1, 64, 0, nullptr, x.data(), o);
  if (is("overflow")) status = launch(overflow_kernel, 1, 64, 0, nullptr, o, 1 << 26);
  if (is("unwritten_static")) status = launch(unwritten_static_kernel, 1, 128, 0, nullptr, o);
  if (is("unwritten_dynamic")) status = launch(unwritten_dynamic_kernel, 1, 32, 8, nullptr, o);
  if (is("leftover")) status = launch(leftover_kernel, 8, 32, 0, nullptr, o);
  if (is("order_of_threads")) status = launch(order_of_threads_kernel, 1, 256, 0, nullptr, o, &count);
  if (is("order_of_blocks")) status = launch(order_of_blocks_kernel, 32, 32, 0, nullptr, o, &count);
  if (is("atomic_and_plain")) status = launch(atomic_and_plain_kernel, 1, 64, 0, nullptr, o);
  std::printf("%s\n", cudaGetErrorName(status));
  for (const int value : out) std::printf("%d\n", value);
  return status == cudaSuccess ? 0 : 2;
}
