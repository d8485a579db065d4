// Test only: stacks, and the switch from one to another: a few instructions on x86-64, ucontext elsewhere.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emu {

// The position of a stack while another one runs.
struct Stack {
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
  void* fake = nullptr;          // AddressSanitizer's own note of it
  const void* bottom = nullptr;  // lowest address
  size_t bytes = 0;
};

#if defined(__x86_64__)
// Saves the callee-saved registers on the running stack, then resumes the stack `to`.
extern "C" void emu_switch_stack(void** from, void* to);
#endif

// Prepares a stack that will begin with `entry`, which must not return. `top` is its highest address.
inline void prepare(Stack& stack, void (*entry)(), char* top) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack.bottom, stack.bytes);  // poisoned by the previous fiber
#endif
#if defined(__x86_64__)
  // At the first instruction of a function the stack pointer is 8 bytes past a multiple of 16. Six registers are popped
  // first.
  auto** slot = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15}) - 8);
  *slot = nullptr;  // the return address of entry
  *--slot = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  stack.pointer = slot;
#else
  getcontext(&stack.context);
  stack.context.uc_stack.ss_sp = const_cast<void*>(stack.bottom);
  stack.context.uc_stack.ss_size = static_cast<size_t>(top - static_cast<const char*>(stack.bottom));
  stack.context.uc_link = nullptr;
  makecontext(&stack.context, entry, 0);
#endif
  stack.fake = nullptr;
}

// Must be called first on a new stack; stores the bounds of the previous stack, which AddressSanitizer needs.
inline void arrived([[maybe_unused]] Stack& here, [[maybe_unused]] Stack* left) {
#ifdef __SANITIZE_ADDRESS__
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(here.fake, &bottom, &bytes);
  if (left != nullptr) left->bottom = bottom, left->bytes = bytes;
#endif
}

// Switches from stack `from` to stack `to`; `last`: `from` does not run again.
inline void switch_stack(Stack& from, Stack& to, [[maybe_unused]] bool last) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(last ? nullptr : &from.fake, to.bottom, to.bytes);
#endif
#if defined(__x86_64__)
  emu_switch_stack(&from.pointer, to.pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
  arrived(from, nullptr);
}

// One stack for each thread of a block, each above a protected page, so that an overflow crashes at once.
class Stacks {
 public:
#ifdef __SANITIZE_ADDRESS__
  static constexpr size_t kBytes = 256 << 10;
#else
  static constexpr size_t kBytes = 64 << 10;
#endif

  explicit Stacks(int count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    stride_ = kBytes + page;
    void* memory = mmap(nullptr, stride_ * static_cast<size_t>(count), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) abort();
    base_ = static_cast<char*>(memory);
    for (int i = 0; i < count; ++i) mprotect(base_ + stride_ * static_cast<size_t>(i), page, PROT_NONE);
    guard_ = page;
  }

  char* bottom(int i) const { return base_ + stride_ * static_cast<size_t>(i) + guard_; }

  // Stacks begin at different offsets in a page: else their first frames would compete for a few sets of the cache.
  char* top(int i) const { return bottom(i) + kBytes - static_cast<size_t>(i) * 192 % 4096; }

 private:
  char* base_;
  size_t stride_, guard_;
};

}  // namespace emu
