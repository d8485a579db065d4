// Copies from global to shared memory that bypass the registers.
#pragma once

#include "cuda/common/launch.cuh"

namespace ssd_ops {

// Copies 16 bytes between aligned addresses: asynchronously on sm_80 and later.
__device__ __forceinline__ void copy_16_bytes(void* shared, const void* global) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))),
      "l"(global)
      : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(global);
#endif
}

// Waits for the copies of this thread.
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Copies `count` elements of any alignment with all threads of the block into the dynamic shared memory of the block
// and returns where they begin, at the same offset from a multiple of 16 bytes. The memory holds 16 bytes more than the
// elements, and other bytes of the same allocation may be read before them. Afterwards every thread calls
// wait_for_copies(), and then the block synchronizes.
template <typename T>
__device__ __forceinline__ const T* copy_to_shared(const T* elements, int count) {
  char* shared = dynamic_shared<char>();
  const int skipped = static_cast<int>(reinterpret_cast<uintptr_t>(elements) % 16);
  const char* from = reinterpret_cast<const char*>(elements) - skipped;
  const int bytes = skipped + count * static_cast<int>(sizeof(T)), whole = bytes & ~15;
  for (int i = 16 * static_cast<int>(threadIdx.x); i < whole; i += 16 * static_cast<int>(blockDim.x))
    copy_16_bytes(shared + i, from + i);
  const int step = static_cast<int>(sizeof(T));
  for (int i = whole + step * static_cast<int>(threadIdx.x); i < bytes; i += step * static_cast<int>(blockDim.x))
    *reinterpret_cast<T*>(shared + i) = *reinterpret_cast<const T*>(from + i);
  return reinterpret_cast<const T*>(shared + skipped);
}

}  // namespace ssd_ops
