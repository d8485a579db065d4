// Test only: runs the blocks of a launch and the fibers of a block; emu.h says how.
#include "scheduler.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <vector>

#include "cuda_runtime.h"
#include "fiber.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch_stack
.hidden emu_switch_stack
.type emu_switch_stack, @function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack, .-emu_switch_stack
)");
#endif

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace emu {

Block block;

namespace {

std::mutex one_launch;
const Launch* current = nullptr;
cudaError_t failed = cudaSuccess;
Stack stacks[kMaxThreads];
Stack caller;
Random random_{0};

// Removes and returns the next of the ready fibers, by the block's scheduling order.
int take_ready() {
  const int at = block.manner == Manner::kRandom
                     ? static_cast<int>(random_.below(static_cast<unsigned>(block.ready_count)))
                     : block.ready_count - 1;
  const int next = block.ready[at];
  block.ready[at] = block.ready[--block.ready_count];
  return next;
}

// Switches from the running fiber to the next one, or back to the caller of the launch when all have ended.
void leave(bool last) {
  const int from = block.running;
  if (block.ready_count == 0) {
    if (block.exited == block.threads) switch_stack(stacks[from], caller, true);
    report_deadlock();
  }
  const int next = take_ready();
  if (next == from) return;  // the last to arrive was chosen at once
  block.running = next;
  threadIdx = block.fibers[next].index;
  switch_stack(stacks[from], stacks[next], last);
}

void fiber_main() {
  arrived(stacks[block.running], block.started ? nullptr : &caller);
  block.started = true;
  current->call(current->arguments);
  note_end();
  Fiber& self = block.fibers[block.running];
  self.state = State::kExited;
  ++block.exited;
  if (block.waiting != 0)
    fault("the thread ended, but %d threads wait at a barrier: %s", block.waiting, waiting_place());
  leave(true);
  __builtin_unreachable();
}

// Makes the fibers in `order` ready: the one that runs first is last.
void make_all_ready(int* order, int count) {
  if (block.manner == Manner::kRandom || block.shuffle) {
    for (int i = count - 1; i > 0; --i) std::swap(order[i], order[random_.below(static_cast<unsigned>(i + 1))]);
  } else if (block.manner == Manner::kUp) {
    std::reverse(order, order + count);
  }
  for (int i = 0; i < count; ++i) make_ready(order[i]);
}

const Stacks& stack_memory() {
  static const Stacks memory(kMaxThreads);
  return memory;
}

void run_block(uint64_t serial, const Launch& launch) {
  const Stacks& memory = stack_memory();
  blockIdx = {static_cast<unsigned>(serial % launch.grid.x),
              static_cast<unsigned>(serial / launch.grid.x % launch.grid.y),
              static_cast<unsigned>(serial / launch.grid.x / launch.grid.y)};
  begin_shared(launch.dynamic_bytes, random_.next());
  block.start(launch.block);
  if (random_.shuffles()) {
    block.manner = static_cast<Manner>(random_.below(3));
    block.shuffle = random_.below(2) != 0;
  }
  int order[kMaxThreads];
  for (int i = 0; i < block.threads; ++i) {
    order[i] = i;
    stacks[i].bottom = memory.bottom(i);
    stacks[i].bytes = Stacks::kBytes;
    prepare(stacks[i], &fiber_main, memory.top(i));
  }
  make_all_ready(order, block.threads);
  block.running = take_ready();
  threadIdx = block.fibers[block.running].index;
  switch_stack(caller, stacks[block.running], false);
}

bool valid(const Launch& launch) {
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  return threads >= 1 && threads <= static_cast<uint64_t>(kMaxThreads) && launch.block.x <= 1024 &&
         launch.block.y <= 1024 && launch.block.z <= 64 && launch.grid.x <= 0x7fffffffu && launch.grid.y <= 65535 &&
         launch.grid.z <= 65535 && launch.grid.x != 0 && launch.grid.y != 0 && launch.grid.z != 0;
}

}  // namespace

cudaError_t remember(cudaError_t status) { return failed = status; }

cudaError_t last_error(bool take) {
  const cudaError_t status = failed;
  if (take) failed = cudaSuccess;
  return status;
}

cudaError_t run(const Launch& launch) {
  const std::lock_guard<std::mutex> lock(one_launch);
  if (!valid(launch)) return cudaErrorInvalidConfiguration;
  if (launch.dynamic_bytes > static_cast<size_t>(kSharedBytesOptin)) return cudaErrorInvalidValue;
  const uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  random_ = Random(seed_from_environment());
  current = &launch;
  note_launch(launch.early);
  blockDim = launch.block;
  gridDim = launch.grid;
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t{0});
  for (uint64_t i = blocks - 1; random_.shuffles() && i > 0; --i) std::swap(order[i], order[random_.next() % (i + 1)]);
  for (const uint64_t serial : order) run_block(serial, launch);
  current = nullptr;
  return cudaSuccess;
}

const Launch* running_launch() { return current; }

Range stack_range() {
  char* const begin = stack_memory().bottom(0);
  return {begin, static_cast<size_t>(stack_memory().bottom(kMaxThreads) - begin)};
}

int lane() { return block.running % 32; }
int thread_rank() { return block.running; }

void make_ready(int fiber) {
  block.fibers[fiber].state = State::kReady;
  block.ready[block.ready_count++] = static_cast<short>(fiber);
}

void wait_for_others() { leave(false); }

int barrier(Barrier kind, int predicate, Where where) {
  Fiber& self = block.fibers[block.running];
  self.state = State::kBarrier;
  self.where = where;
  if (block.exited != 0) fault("barrier at %s, but %d threads of the block have ended", place(where), block.exited);
  if (block.waiting == 0) {
    block.barrier_where = where;
    block.counted = 0;
  } else if (block.barrier_where.line != where.line || strcmp(block.barrier_where.file, where.file) != 0) {
    fault("divergent barrier: the thread is at %s, %d threads wait at %s", place(where), block.waiting,
          waiting_place());
  }
  block.counted += predicate != 0 ? 1 : 0;
  if (++block.waiting == block.threads) {
    block.agreed = block.counted;
    block.waiting = 0;
    note_barrier();
    int order[kMaxThreads];
    std::iota(order, order + block.threads, 0);
    make_all_ready(order, block.threads);
  }
  wait_for_others();
  switch (kind) {
    case Barrier::kPlain: return 0;
    case Barrier::kCount: return block.agreed;
    case Barrier::kAnd: return block.agreed == block.threads ? 1 : 0;
    case Barrier::kOr: return block.agreed != 0 ? 1 : 0;
  }
  __builtin_unreachable();
}

}  // namespace emu
