// The election of the last block of a grid, which finishes what all blocks have written.
#pragma once

#include "cuda/common/launch.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

// Whether this block is the last of `num_blocks` to arrive; it then sees everything that the others have written.
// `ticket` is 0 before the launch and after it. All threads of the block call it.
__device__ inline bool is_last_block(unsigned* ticket, unsigned num_blocks) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1u) == num_blocks - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

// The same for all blocks of the grid.
__device__ inline bool is_last_block(unsigned* ticket) { return is_last_block(ticket, gridDim.x * gridDim.y); }

}  // namespace
}  // namespace ssd_ops
