// Test only: put first on the include path, this header lets g++ compile the unchanged csrc/cuda/*.cu and run the
// kernels on the CPU, one fiber for each CUDA thread.
//
// It detects: a barrier that not every thread of the block reaches, or not at the same line; a warp collective whose
// mask has a lane that never arrives, or lacks the caller; results that depend on the order of threads or blocks, or on
// uninitialized shared memory (by several seeds and poisons, see schedules.py); with the sanitizers out-of-bounds and
// misaligned accesses and overflow; in the checked build (check.cpp, check_global.cpp) every read of uninitialized
// shared memory, every race of two threads in shared or global memory, and accesses of a kernel that is launched early
// before the previous one has ended, with their lines.
//
// Limits: it does not model speed, registers or memory coalescing. Blocks run one after another, so a kernel that spins
// until another thread or block writes something hangs. Threads switch only where they wait. It is stricter than the
// hardware: an exited thread does not count as arrived, a mask may not have a lane that has exited, __activemask() is
// the calling lane alone, and all threads of a block must be at the same barrier statement. The device is the smallest
// that the kernels are built for, see cuda_runtime_api.h.
#pragma once

#include <math.h>
#include <stdint.h>

#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cuda_runtime_api.h"
#include "emu.h"

#ifndef SSD_OPS_EMULATED
#error "tests/emu/cuda_runtime.h is for builds with -DSSD_OPS_EMULATED"
#endif

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)
#define __grid_constant__

// Thread-local variables without a value lie together in the library, which is how shared.cpp finds and poisons them.
// AddressSanitizer guards no thread-local variable, so under it they are plain static ones, with red zones and without
// poison; a variable with external linkage would get no red zone, hence kernels are in anonymous namespaces.
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static
#else
#define __shared__ thread_local
#endif

inline void __syncthreads(emu::Where where = emu::Where::here()) { emu::barrier(emu::Barrier::kPlain, 0, where); }
inline int __syncthreads_count(int predicate, emu::Where where = emu::Where::here()) {
  return emu::barrier(emu::Barrier::kCount, predicate, where);
}
inline int __syncthreads_and(int predicate, emu::Where where = emu::Where::here()) {
  return emu::barrier(emu::Barrier::kAnd, predicate, where);
}
inline int __syncthreads_or(int predicate, emu::Where where = emu::Where::here()) {
  return emu::barrier(emu::Barrier::kOr, predicate, where);
}

// The next thread that runs sees all writes of the previous one, so fences do nothing but in the checked build.
inline void __threadfence_block() { emu::note_fence(); }
inline void __threadfence() { emu::note_fence(); }
inline void __threadfence_system() { emu::note_fence(); }
[[noreturn]] inline void __trap() { emu::fault("__trap()"); }

namespace emu {

// Calls a kernel with copies of the arguments, as every thread has its own parameters.
template <typename... Params>
struct Bound {
  void (*kernel)(Params...);
  std::tuple<Params...> arguments;

  static void call(const void* self) {
    const auto* bound = static_cast<const Bound*>(self);
    std::apply(bound->kernel, bound->arguments);
  }
};

template <typename... Params, typename... Args>
cudaError_t launch(bool early, void (*kernel)(Params...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t,
                   Args&&... args) {
  static_assert((std::is_trivially_copyable_v<Params> && ...), "kernel parameters are copied to the device as bytes");
  static_assert((sizeof(Params) + ... + 0) <= 4096, "kernel parameters take at most 4096 bytes");
  const Bound<Params...> bound{kernel, {std::forward<Args>(args)...}};
  return run(
      {early, reinterpret_cast<const void*>(kernel), &Bound<Params...>::call, &bound, grid, block, dynamic_bytes});
}

}  // namespace emu

#include "emu_math.h"
#include "emu_warp.h"
