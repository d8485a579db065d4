// A kernel with static shared memory outside of an anonymous namespace, which the sanitized build rejects.
#include "cuda/common/launch.cuh"

template <typename T>
__global__ void linked_kernel(T* out) {
  __shared__ T s[32];
  s[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = s[31 - threadIdx.x];
}

int main() {
  int out[32] = {};
  return ssd_ops::launch(linked_kernel<int>, 1, 32, 0, nullptr, out);
}
