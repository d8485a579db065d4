// Test only: the interface of the emulator's scheduler (scheduler.cpp) and of its shared memory (shared.cpp).
//
// One launch runs at a time, under a lock. Its blocks run one after another in shuffled order. The threads of a block
// are fibers of the calling thread: one runs until it must wait for others at a barrier or in a warp collective, and a
// random one that can go on follows.
//
// Environment, read at each launch:
//   SSD_OPS_EMU_SEED    decimal; the order of blocks and fibers, and by default the poison. 0: blocks in order.
//                       Default 1.
//   SSD_OPS_EMU_POISON  hexadecimal; the 32 bits that shared memory, and memory that csrc/ops allocates, holds before
//                       anything is written there.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda_runtime_api.h"

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;
constexpr int warpSize = 32;

namespace emu {

// A place in a kernel's source; the default arguments give that of the caller.
struct Where {
  const char* file;
  int line;
  const char* function;
  static Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE(),
                    const char* function = __builtin_FUNCTION()) {
    return {file, line, function};
  }
};

enum class Barrier { kPlain, kCount, kAnd, kOr };
enum class Warp {
  kSync,
  kShfl,
  kShflUp,
  kShflDown,
  kShflXor,
  kBallot,
  kAll,
  kAny,
  kMatchAny,
  kMatchAll,
  kAddSigned,
  kMinSigned,
  kMaxSigned,
  kAdd,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor
};

// One launch: the kernel's address (for its name), and how a fiber calls it. `early`: with programmatic dependent
// launch.
struct Launch {
  bool early;
  const void* kernel;
  void (*call)(const void* arguments);
  const void* arguments;
  dim3 grid, block;
  size_t dynamic_bytes;
};
cudaError_t run(const Launch& launch);

// Waits for all threads of the block; the result is that of __syncthreads_count, _and and _or.
int barrier(Barrier kind, int predicate, Where where);

// Waits for the lanes of `mask`, then every lane has its result. `argument` is the lane, delta or xor mask of a shuffle
// and `width` its width; a shuffle from an inactive lane gives a value that differs from seed to seed.
uint64_t collective(Warp kind, unsigned mask, uint64_t value, int argument, int width, Where where);

// A __threadfence(), and wait_for_previous_kernel() of csrc/cuda/common/launch.cuh, for the checked build.
#ifdef SSD_OPS_EMU_CHECKED
void note_fence();
void note_wait();
#else
inline void note_fence() {}
inline void note_wait() {}
#endif

// The running thread: its lane, and its index in the block, x fastest.
int lane();
int thread_rank();

// A device-side assertion of the emulator: prints the error, with kernel, block and thread, and aborts.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Fills memory that csrc/ops has allocated.
void poison_allocation(void* memory, size_t bytes);

// Dynamic shared memory of the running block.
void* dynamic_shared();

}  // namespace emu
