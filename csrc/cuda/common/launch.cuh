// The one place that launches kernels, and the few idioms that every kernel file shares.
//
// A launcher is a plain function that takes raw pointers and a stream and returns cudaError_t:
//
//   cudaError_t launch_scale(const float* x, float* y, int64_t n, cudaStream_t stream) {
//     return launch(scale_kernel<float>, grid_blocks(n, 256), 256, 0, stream, x, y, n);
//   }
//
// The same source is compiled by nvcc for a GPU and, with SSD_OPS_EMULATED defined and tests/emu first on the include
// path, by g++ for the CPU emulator that the tests use. For that a kernel file keeps to five rules:
//   * it includes this header and launches through launch(), never with <<< >>>;
//   * static shared memory is `__shared__ T name[N];` in a function; dynamic shared memory comes from dynamic_shared(),
//     never from `extern __shared__`;
//   * a function with a static shared array is static or stands in an anonymous namespace, as the sanitizer needs it;
//   * code asks `#ifdef __CUDA_ARCH__` for nothing that decides a result;
//   * no thread spins until another one writes a flag (a counter that elects the last block is fine).
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace ssd_ops {

constexpr int kWarpSize = 32;
constexpr unsigned kFullMask = 0xffffffffu;     // every lane of a warp
constexpr int64_t kMaxGridX = 0x7fffffff;       // blocks along x
constexpr int64_t kMaxGridYZ = 65535;           // blocks along y and along z
constexpr size_t kPlainSharedBytes = 32 << 10;  // dynamic shared memory that needs no attribute, see launch()

// a / b rounded up, for a >= 0 and b > 0; a + b - 1 could overflow, this cannot.
__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// a rounded up to a multiple of b, for a >= 0 and b > 0.
__host__ __device__ constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Blocks along x for `items` items, `per_block` of them in each block, at most `most` blocks: a kernel that may meet
// the cap steps through the rest with a stride of gridDim.x blocks. No item gives no block, and launch() then does
// nothing.
inline unsigned grid_blocks(int64_t items, int64_t per_block, int64_t most = kMaxGridX) {
  const int64_t blocks = ceil_div(items, per_block);
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

// Index of the thread in a one-dimensional grid, and the number of threads of that grid, both 64 bits wide:
//   for (int64_t i = global_thread(); i < n; i += global_threads()) ...
__device__ inline int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t global_threads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

// The dynamic shared memory of the block, aligned to 16 bytes. Several arrays are carved from it by hand, the most
// strictly aligned first.
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

// Value of one attribute of the current device.
inline cudaError_t device_attribute(cudaDeviceAttr attribute, int* value) {
  int device = 0;
  const cudaError_t status = cudaGetDevice(&device);
  return status == cudaSuccess ? cudaDeviceGetAttribute(value, attribute, device) : status;
}

// Whether the current device runs the kernels as code for sm_90 or later, which has dependent launches: the one
// place that asks. A device runs code of its own major architecture where the build has any.
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

// The first statement of a kernel of several: waits for what the kernel before it on the stream writes, where
// launch_next() has let this one begin earlier, and lets the next one begin.
__device__ __forceinline__ void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether a kernel may begin before the one before it on the stream has ended, see await_previous().
enum class Begin { after_previous, early };

// Starts `kernel` on `stream` and returns the status of the launch; it does not wait. A grid without a block is no
// error: nothing is launched. More dynamic shared memory than every device grants unasked is asked for first; the 48 KB
// that need no asking include the kernel's static shared memory, so the request is made from 32 KB on.
template <typename... Params, typename... Args>
cudaError_t launch_as(Begin begin, void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                      cudaStream_t stream, Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args), "a launch must be given one argument for each kernel parameter");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#ifdef SSD_OPS_EMULATED
  static_cast<void>(begin);
  return emu::launch<Params...>(kernel, grid, block, dynamic_shared_bytes, stream, std::forward<Args>(args)...);
#else
  if (dynamic_shared_bytes > kPlainSharedBytes) {
    const cudaError_t status =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(dynamic_shared_bytes));
    if (status != cudaSuccess) {
      cudaGetLastError();  // taken out, see below
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
  if (status != cudaSuccess) cudaGetLastError();  // taken out, or a later check of another launch would find it
  return status;
#endif
}

// A kernel that follows whatever the stream holds.
template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared_bytes, cudaStream_t stream,
                   Args&&... args) {
  return launch_as(Begin::after_previous, kernel, grid, block, dynamic_shared_bytes, stream,
                   std::forward<Args>(args)...);
}

// A kernel that follows another one of ours: its blocks may be placed while the last ones of that still run.
template <typename... Params, typename... Args>
cudaError_t launch_next(void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                        cudaStream_t stream, Args&&... args) {
  return launch_as(Begin::early, kernel, grid, block, dynamic_shared_bytes, stream, std::forward<Args>(args)...);
}

// Bytes of shared memory (static and dynamic together) that one block may have on the current device.
inline cudaError_t max_shared_bytes(int* bytes) {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, bytes);
}

// Multiprocessors of the current device, to size the grid of a kernel whose blocks stride over the work.
inline cudaError_t multiprocessors(int* count) { return device_attribute(cudaDevAttrMultiProcessorCount, count); }

}  // namespace ssd_ops
