// Copies of contiguous bytes from global into shared memory by a whole block.
#pragma once

#include "cuda/common/async_copy.cuh"

namespace ssd_ops {
namespace {  // so that the emulator's sanitized build can put red zones around shared memory

constexpr int kCopyAlignment = 16;

// Shared memory for a copy of `bytes` bytes from any address, see SharedCopy.
constexpr int64_t shared_copy_bytes(int64_t bytes) { return round_up(bytes, kCopyAlignment) + kCopyAlignment; }

// A copy of `bytes` bytes into shared memory at `memory`, which is aligned to 16 bytes and has shared_copy_bytes().
// Whole words of 16 bytes are copied to words: from sm_90 on by one bulk copy, which one thread starts, before by all
// threads. The first 32 threads copy the bytes that precede the first whole word and follow the last one.
class SharedCopy {
 public:
  // Starts to copy. All threads of the block call it, once in a kernel.
  __device__ SharedCopy(void* memory, const void* source, int bytes) : memory_(static_cast<char*>(memory)) {
    constexpr int kWord = kCopyAlignment;
    skipped_ = static_cast<int>(reinterpret_cast<uintptr_t>(source) % kWord);
    const char* from = static_cast<const char*>(source) - skipped_;
    const int end = skipped_ + bytes, first_word = static_cast<int>(round_up(skipped_, kWord)),
              size = end / kWord * kWord - first_word;  // of the whole words; may be negative
    copy_edges(from, first_word < end ? first_word : end, size > 0 ? first_word + size : first_word, end);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(barrier()) : "memory");
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier()), "r"(size > 0 ? size : 0)
                   : "memory");
      if (size > 0) start_bulk_copy(memory_ + first_word, from + first_word, size);
    }
#else
    for (int i = static_cast<int>(threadIdx.x) * kWord; i < size; i += static_cast<int>(blockDim.x) * kWord)
      copy_16_bytes(memory_ + first_word + i, from + first_word + i);
#endif
  }

  // Bytes from the aligned beginning of the copied words to the copy of the source.
  __device__ int skipped() const { return skipped_; }

  // Waits for the copy and returns the copied words. All threads of the block call it.
  __device__ const char* wait() const {
    wait_for_copies();
    __syncthreads();  // the barrier is initialized, or all threads have copied
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    unsigned done = 0;
    while (done == 0) {
      asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0; selp.u32 %0, 1, 0, p; }"
                   : "=r"(done)
                   : "r"(barrier())
                   : "memory");
    }
#endif
    return memory_;
  }

 private:
  // Copies the bytes from skipped_ to `head_end` and from `tail` to `end`, fewer than 16 each.
  __device__ void copy_edges(const char* from, int head_end, int tail, int end) const {
    const int thread = threadIdx.x, begin = thread < kCopyAlignment ? skipped_ : tail - kCopyAlignment,
              i = begin + thread;
    if (thread < 2 * kCopyAlignment && i < (thread < kCopyAlignment ? head_end : end)) memory_[i] = from[i];
  }

  char* memory_;
  int skipped_;  // bytes before the source in its first word

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  // The source is read once, so it leaves the L2 cache first and does not displace what later kernels need.
  __device__ static void start_bulk_copy(void* to, const void* from, int size) {
    unsigned long long policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
            "r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
        "l"(__cvta_generic_to_global(from)), "r"(size), "r"(barrier()), "l"(policy)
        : "memory");
  }
  __device__ static unsigned barrier() {
    __shared__ unsigned long long storage;
    return static_cast<unsigned>(__cvta_generic_to_shared(&storage));
  }
#endif
};

}  // namespace
}  // namespace ssd_ops
