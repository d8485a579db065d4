// The one place that launches kernels, and the few idioms that every kernel file shares.
//
// A launcher is a plain function that takes raw pointers and a stream and returns cudaError_t:
//
//   cudaError_t launch_scale(const float* x, float* y, int64_t n, cudaStream_t stream) {
//     return launch(scale_kernel<float>, grid_blocks(n, 256), 256, 0, stream, x, y, n);
//   }
//
// The same source is compiled by nvcc for a GPU and, with SSD_OPS_EMULATED defined and tests/emu first on the include
// path, by g++ for the CPU emulator of the tests. For that a kernel file follows five rules:
//   * it includes this header and launches through launch(), never with <<< >>>;
//   * static shared memory is `__shared__ T name[N];` in a function; dynamic shared memory comes from dynamic_shared(),
//     never from `extern __shared__`;
//   * a function with a static shared array is static or in an anonymous namespace, as the sanitizer needs it;
//   * no `#ifdef __CUDA_ARCH__` changes a result;
//   * no thread spins until another one writes a flag (a counter that elects the last block is fine).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/host_device.h"

namespace ssd_ops {

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;          // every lane of a warp
constexpr int64_t kMaxGridX = 0x7fffffff;            // blocks along x
constexpr int64_t kMaxGridYZ = 65535;                // blocks along y and along z
constexpr size_t kMaxSharedWithoutOptIn = 32 << 10;  // dynamic shared memory that needs no attribute, see launch()

// Blocks along x for `items` items with `per_block` items each, at most `max_blocks`: a kernel that may reach the limit
// uses a grid-stride loop. 0 for no items; launch() then does nothing.
inline unsigned grid_blocks(int64_t items, int64_t per_block, int64_t max_blocks = kMaxGridX) {
  const int64_t blocks = ceil_div(items, per_block);
  return static_cast<unsigned>(blocks < max_blocks ? blocks : max_blocks);
}

// Index of the thread in a one-dimensional grid, and the number of threads of that grid, both 64 bits wide:
//   for (int64_t i = global_thread_index(); i < n; i += num_global_threads()) ...
__device__ inline int64_t global_thread_index() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t num_global_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// The dynamic shared memory of the block, aligned to 16 bytes.
template <typename T>
__device__ inline T* dynamic_shared() {
  static_assert(alignof(T) <= 16, "dynamic shared memory is aligned to 16 bytes");
#ifdef SSD_OPS_EMULATED
  return static_cast<T*>(emu::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char ssd_ops_dynamic_shared[];
  return reinterpret_cast<T*>(ssd_ops_dynamic_shared);
#endif
}

// An attribute of the current device.
inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) {
  int device = 0;
  const cudaError_t status = cudaGetDevice(&device);
  return status == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device) : status;
}

// Whether the current device runs code that was compiled for sm_90 or later, which has programmatic dependent launch.
// A device prefers code for its own major architecture if the build has any.
inline bool runs_code_of_sm_90() {
#if defined(SSD_OPS_EMULATED) || !defined(__CUDA_ARCH_LIST__)
  return false;
#else
  constexpr int kBuilt[] = {__CUDA_ARCH_LIST__};
  int major = 0;
  if (device_attribute(cudaDevAttrComputeCapabilityMajor, &major) != cudaSuccess || major < 9) return false;
  for (const int architecture : kBuilt)
    if (architecture / 100 == major) return true;
  return false;
#endif
}

// Every thread of a kernel that launch_dependent() starts (programmatic dependent launch) calls this before it reads or
// writes anything that the previous kernel on the stream writes: waits for that kernel to complete and for its writes,
// and allows the next kernel to start. What was written before the previous kernel began may be read earlier, if that
// kernel was started by launch().
__device__ __forceinline__ void wait_for_previous_kernel() {
#if defined(SSD_OPS_EMULATED)
  emu::note_wait();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether a kernel may start before the previous one on the stream has completed, see wait_for_previous_kernel().
enum class Begin { after_previous, early };

// Launches `kernel` on `stream` and returns the status of the launch, without synchronizing. An empty grid is no error:
// nothing is launched. Above 48 KB of static and dynamic shared memory together a kernel needs an attribute; it is set
// from 32 KB of dynamic shared memory on.
template <typename... Params, typename... Args>
cudaError_t launch_as(Begin begin, void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                      cudaStream_t stream, Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args), "a launch must be given one argument for each kernel parameter");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#ifdef SSD_OPS_EMULATED
  return emu::launch<Params...>(begin == Begin::early, kernel, grid, block, dynamic_shared_bytes, stream,
                                std::forward<Args>(args)...);
#else
  if (dynamic_shared_bytes > kMaxSharedWithoutOptIn) {
    const cudaError_t status =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(dynamic_shared_bytes));
    if (status != cudaSuccess) {
      cudaGetLastError();  // clears the error, see below
      return status;
    }
  }
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = dynamic_shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = begin == Begin::early && runs_code_of_sm_90() ? 1 : 0;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...);
  if (status != cudaSuccess) cudaGetLastError();  // clears the error, or the check of a later launch would report it
  return status;
#endif
}

// Launches a kernel that starts after all previous work on the stream.
template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared_bytes, cudaStream_t stream,
                   Args&&... args) {
  return launch_as(Begin::after_previous, kernel, grid, block, dynamic_shared_bytes, stream,
                   std::forward<Args>(args)...);
}

// Launches a kernel after another one of this library: its blocks may become resident while the last blocks of that one
// still run. The kernel calls wait_for_previous_kernel() first.
template <typename... Params, typename... Args>
cudaError_t launch_dependent(void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                             cudaStream_t stream, Args&&... args) {
  return launch_as(Begin::early, kernel, grid, block, dynamic_shared_bytes, stream, std::forward<Args>(args)...);
}

// The maximum shared memory (static and dynamic together) of a block on the current device, in bytes.
inline cudaError_t max_shared_bytes(int* bytes) {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, bytes);
}

// The number of multiprocessors of the current device, to size grid-stride kernels.
inline cudaError_t multiprocessors(int* count) { return device_attribute(cudaDevAttrMultiProcessorCount, count); }

}  // namespace ssd_ops
