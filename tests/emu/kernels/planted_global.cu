// Kernels with one bug each in global memory or in a programmatic dependent launch, which the checked build of the
// emulator must detect: `planted_global NAME` runs one. test_emulator.py has the expected message of each.
#include <cstdio>
#include <cstring>
#include <vector>

#include "cuda/common/last_block.cuh"

namespace ssd_ops {
namespace {

__global__ void within_block_kernel(int* out) {
  out[threadIdx.x] = threadIdx.x;
  // here a barrier is missing
  out[128] += out[127 - threadIdx.x];
}

// Whether all other blocks have arrived, with a fence before, after, or neither.
__device__ bool is_last(int* arrived, bool releases, bool acquires) {
  __shared__ bool last;
  if (releases) __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(arrived, 1) == static_cast<int>(gridDim.x) - 1;
  __syncthreads();
  if (acquires) __threadfence();
  return last;
}

__global__ void last_block_kernel(int* out, int* arrived, bool releases, bool acquires) {
  if (threadIdx.x == 0) out[blockIdx.x] = blockIdx.x;
  if (!is_last(arrived, releases, acquires) || threadIdx.x != 0) return;
  for (unsigned b = 0; b < gridDim.x; ++b) out[200] += out[b];  // of all blocks
}

__global__ void late_read_kernel(int* out, unsigned* ticket) {
  const bool last = is_last_block(ticket);
  if (!last && threadIdx.x == 0) out[blockIdx.x + 1] = out[0];  // which the last block overwrites
  if (last && threadIdx.x == 0) out[0] = 1;
}

__global__ void atomic_and_load_kernel(int* out) {
  if (threadIdx.x == 0) atomicAdd(&out[0], 1);
  if (threadIdx.x == 0 && out[0] > 1) out[blockIdx.x + 1] = 1;  // while other blocks still add
}

__global__ void first_kernel(const int* x, int* out) { out[threadIdx.x] = x[threadIdx.x]; }

__global__ void early_read_kernel(const int* x, int* out) {
  const int value = x[threadIdx.x];  // the previous kernel may not have written it
  wait_for_previous_kernel();
  out[threadIdx.x] = value;
}

__global__ void early_write_kernel(int* x, const int* out) {
  x[threadIdx.x] = 1;  // the previous kernel may not have read it
  wait_for_previous_kernel();
  x[threadIdx.x] += out[threadIdx.x];
}

__global__ void some_wait_kernel(int* x) {
  if (threadIdx.x % 32 != 0) return;
  wait_for_previous_kernel();
  x[threadIdx.x] = 1;
}

}  // namespace
}  // namespace ssd_ops

int main(int, char** arguments) {
  using namespace ssd_ops;
  std::vector<int> out(256, 0), other(256, 0);
  int count = 0;
  unsigned ticket = 0;
  int *o = out.data(), *x = other.data();
  const auto is = [&](const char* name) { return std::strcmp(arguments[1], name) == 0; };
  cudaError_t status = cudaErrorInvalidValue;
  if (is("within_block")) status = launch(within_block_kernel, 1, 128, 0, nullptr, o);
  if (is("no_fence")) status = launch(last_block_kernel, 4, 64, 0, nullptr, o, &count, false, false);
  if (is("no_release")) status = launch(last_block_kernel, 4, 64, 0, nullptr, o, &count, false, true);
  if (is("no_acquire")) status = launch(last_block_kernel, 4, 64, 0, nullptr, o, &count, true, false);
  if (is("correct")) status = launch(last_block_kernel, 4, 64, 0, nullptr, o, &count, true, true);
  if (is("late_read")) status = launch(late_read_kernel, 4, 32, 0, nullptr, o, &ticket);
  if (is("atomic_and_load")) status = launch(atomic_and_load_kernel, 4, 32, 0, nullptr, o);
  if (is("early_read") || is("early_write") || is("some_wait")) launch(first_kernel, 1, 64, 0, nullptr, x, o);
  if (is("early_read")) status = launch_dependent(early_read_kernel, 1, 64, 0, nullptr, o, x);
  if (is("early_write")) status = launch_dependent(early_write_kernel, 1, 64, 0, nullptr, x, o);
  if (is("some_wait")) status = launch_dependent(some_wait_kernel, 1, 64, 0, nullptr, x);
  std::printf("%s\n", cudaGetErrorName(status));
  return status == cudaSuccess ? 0 : 2;
}
