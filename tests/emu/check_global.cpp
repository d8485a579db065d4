// Test only: detects races in global memory, which no tool finds on a GPU: between threads and between blocks of a
// launch, and, with programmatic dependent launch, between a kernel and the ones before it.
//
// Every access of a kernel leaves a stamp. An access and an earlier one of another thread, one of them a write and not
// both of them atomic, must be ordered: within a block by a barrier or __syncwarp(); between blocks by __threadfence(),
// an atomic of each on one address, and __threadfence() again, as is_last_block() has them; between launches by
// wait_for_previous_kernel(). Loads that bypass L1 (__ldcg, volatile) and volatile stores count as atomic.
//
// Blocks run one after another, so only the stamps differ from those of blocks that run at the same time. Of the
// readers of an address two are known, of the blocks that a block has acquired all threads.
#ifdef SSD_OPS_EMU_CHECKED
#include <algorithm>
#include <iterator>
#include <memory>
#include <unordered_map>
#include <vector>

#include "scheduler.h"

namespace emu {
namespace {

struct Stamp {
  uint32_t launch, block, when;  // when: 0 for no access
  unsigned epoch, warp_time, fences;
  uint16_t thread;
  uint8_t bytes;  // of the cell, one bit each
  bool atomic;
  const void* code;
};

// The last accesses of each kind to 4 bytes: two reads, of different blocks.
struct Cell {
  Stamp write, atomic, read, other_read;
};
constexpr uintptr_t kCellBytes = 4, kPageBytes = 4096;
struct Page {
  Cell cells[kPageBytes / kCellBytes];
};

// What an atomic after a fence makes visible to a thread whose atomic on the same address is followed by a fence; also
// what the block knew `before`.
struct Release;
using Releases = std::vector<Release>;
struct Release {
  uint32_t block, when, fence_when;
  unsigned fence_epoch, fenced;
  int thread;
  std::shared_ptr<const Releases> before;

  bool covers(const Stamp& s) const {
    if (s.block != block || s.when >= when) return false;
    return (s.thread == thread && s.when < fence_when) || s.epoch < fence_epoch || s.fences < fenced;
  }
};

std::unordered_map<uintptr_t, Page> pages;
std::unordered_map<const void*, Releases> released;  // by the address of the atomic
Releases known, pending;                             // to the running block: now, and after the next fence
uint32_t launch = 0, block_number = 0, now = 0;
unsigned epoch = 0;
bool is_early = false;

// Of a thread of the running block: its fences, those before the last barrier, and the last of them.
struct ThreadFences {
  bool waited;  // for the previous kernel
  unsigned count, before_barrier, epoch;
  uint32_t when;
};
ThreadFences threads[kMaxThreads];

bool is_known(const Stamp& s) {
  return std::any_of(known.begin(), known.end(), [&](const Release& r) { return r.covers(s); });
}

// Whose access `s` was, if it may happen at the same time as one of the running thread, else nullptr.
const char* other_party(const Stamp& s, const Stamp& own) {
  if (s.when == 0 || (s.bytes & own.bytes) == 0) return nullptr;
  if (s.launch != launch) return threads[own.thread].waited ? nullptr : "an earlier kernel";
  if ((s.atomic && own.atomic) || is_known(s)) return nullptr;
  if (s.block != block_number) return "another block";
  const bool same_warp = s.thread / 32 == own.thread / 32;
  const bool ordered = s.epoch != epoch || (same_warp && knows(own.thread, s.thread % 32, s.warp_time));
  return s.thread == own.thread || ordered ? nullptr : "another thread of the block";
}

void check_order(const Stamp& s, const Stamp& own, const char* what, const char* other) {
  if (const char* whose = other_party(s, own))
    fault("race in global memory: %s at %s, %s of %s at %s, and nothing orders them", what,
          code_place(own.code).c_str(), other, whose, code_place(s.code).c_str());
}

void check_cell(Cell& cell, const Stamp& own, bool reads) {
  const char* const what = reads ? "read" : own.atomic ? "atomic" : "write";
  check_order(cell.write, own, what, "write");
  check_order(cell.atomic, own, what, "atomic");
  if (reads) {
    if (cell.read.launch != launch || cell.read.block != block_number) cell.other_read = cell.read;
    cell.read = own;
    return;
  }
  check_order(cell.read, own, what, "read");
  check_order(cell.other_read, own, what, "read");
  (own.atomic ? cell.atomic : cell.write) = own;
}

// Adds a release, or replaces an earlier one of the same thread.
void add(Releases& all, const Release& added) {
  const auto is_same = [&](const Release& r) { return r.block == added.block && r.thread == added.thread; };
  const auto found = std::find_if(all.begin(), all.end(), is_same);
  if (found == all.end()) {
    all.push_back(added);
  } else if (found->when < added.when) {
    *found = added;
  }
}

// A fence before an atomic releases, one after it acquires.
void synchronize(const void* address) {
  const int thread = block.running;
  Releases& all = released[address];
  for (const Release& r : all) {
    add(pending, r);
    for (const Release& earlier : *r.before) add(pending, earlier);
  }
  unsigned fenced = threads[0].before_barrier;
  for (int i = 1; i < block.threads; ++i) fenced = std::min(fenced, threads[i].before_barrier);
  if (threads[thread].count == 0 && fenced == 0) return;
  add(all, {block_number, now, threads[thread].when, threads[thread].epoch, fenced, thread,
            std::make_shared<const Releases>(known)});
}

bool is_ignored(uintptr_t address) {  // stacks, and the emulator's built-in variables
  const auto within = [&](const void* begin, size_t bytes) {
    return address - reinterpret_cast<uintptr_t>(begin) < bytes;
  };
  static const Range stacks = stack_range();
  return within(stacks.begin, stacks.bytes) || within(&threadIdx, sizeof(threadIdx)) ||
         within(&blockIdx, sizeof(blockIdx)) || within(&blockDim, sizeof(blockDim)) ||
         within(&gridDim, sizeof(gridDim));
}

}  // namespace

void check_global(const void* address, size_t bytes, Access access, const void* code) {
  const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  if (is_ignored(begin)) return;
  const bool reads = access == Access::kRead || access == Access::kRelaxedRead;
  const auto thread = static_cast<uint16_t>(block.running);
  Stamp own{launch, block_number, ++now, epoch, warp_time_of(thread), threads[thread].count, thread, 0, false, code};
  own.atomic = access != Access::kRead && access != Access::kWrite;
  for (uintptr_t at = begin; at < end;) {
    const uintptr_t first = at % kCellBytes, count = std::min(kCellBytes - first, end - at);
    own.bytes = static_cast<uint8_t>(((1u << count) - 1) << first);
    check_cell(pages[at / kPageBytes].cells[at % kPageBytes / kCellBytes], own, reads);
    at += count;
  }
  if (access == Access::kAtomic) synchronize(address);
}

void note_launch(bool early) {
  ++launch;
  is_early = early;
  released.clear();
  if (!early) pages.clear();  // all previous kernels have ended
  if (!early) now = 0;
}

void note_global_block() {
  ++block_number;
  epoch = 0;
  known.clear();
  pending.clear();
  std::fill(std::begin(threads), std::end(threads), ThreadFences{!is_early, 0, 0, 0, 0});
}

void note_global_barrier() {
  ++epoch;
  for (int i = 0; i < block.threads; ++i) threads[i].before_barrier = threads[i].count;
}

void note_fence() {
  ThreadFences& own = threads[block.running];
  ++own.count;
  own.epoch = epoch;
  own.when = ++now;
  for (const Release& r : pending) add(known, r);
  pending.clear();
}

void note_wait() { threads[block.running].waited = true; }

void note_end() {
  if (!threads[block.running].waited) fault("the thread ended without wait_for_previous_kernel()");
}

}  // namespace emu
#endif  // SSD_OPS_EMU_CHECKED
