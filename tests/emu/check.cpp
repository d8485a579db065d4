// Test only: detects reads of uninitialized shared memory, and races in it, as compute-sanitizer's initcheck and
// racecheck do; check_global.cpp looks for races in global memory.
//
// In the checked build the compiler inserts a call before every load and store of a kernel (-fsanitize=thread); these
// are the functions it calls, in place of the sanitizer's. For every byte of shared memory they record the last writer
// and the readers since then. Two accesses of different threads, one of them a write and not both atomic, must have a
// barrier between them or, within a warp, a __syncwarp() of both threads; shuffles and votes order no memory.
#ifdef SSD_OPS_EMU_CHECKED
#include <algorithm>
#include <vector>

#include "emu_warp.h"
#include "scheduler.h"

namespace emu {
namespace {

constexpr int kNobody = -1, kSeveral = -2;

struct Cell {
  uint64_t block = 0;  // the cell is valid in this block only
  int writer, read_warp;
  bool atomic;
  unsigned write_epoch, write_stamp, read_epoch, read_stamp, read_lanes;
  const void *write_code, *read_code;
};

// Time is counted twice: barriers of the block so far, and __syncwarp()s of each warp so far. A thread knows what lane
// l of its warp did at warp time t when known[thread][l] > t.
uint64_t block_serial = 0;
unsigned epoch = 0;
unsigned warp_time[kMaxThreads / 32];
unsigned known[kMaxThreads][32];
Range ranges[2];
std::vector<Cell> cells[2];

[[noreturn]] void report_race(const char* what, const void* code, const char* other, const void* other_code) {
  fault("race in shared memory: %s at %s, %s at %s, and nothing orders them", what, code_place(code).c_str(), other,
        code_place(other_code).c_str());
}

void check_against_write(const Cell& cell, int thread, const char* what, const void* code) {
  if (cell.writer == thread || cell.write_epoch != epoch) return;
  if (cell.writer / 32 == thread / 32 && knows(thread, cell.writer % 32, cell.write_stamp)) return;
  report_race(what, code, "write of another thread", cell.write_code);
}

void check_against_reads(const Cell& cell, int thread, const char* what, const void* code) {
  if (cell.read_warp == kNobody || cell.read_epoch != epoch) return;
  bool ordered = cell.read_warp == thread / 32;
  for (unsigned rest = cell.read_lanes; ordered && rest != 0; rest &= rest - 1) {
    ordered = knows(thread, __builtin_ctz(rest), cell.read_stamp);
  }
  if (!ordered) report_race(what, code, "read of another thread", cell.read_code);
}

void note_read(Cell& cell, int thread, const void* code) {
  const int warp = thread / 32;
  unsigned others = 0;  // lanes whose reads this thread does not know of
  if (cell.read_warp != kNobody && cell.read_epoch == epoch) {
    if (cell.read_warp != warp) {
      cell.read_warp = kSeveral;
      return;
    }
    for (unsigned rest = cell.read_lanes; rest != 0; rest &= rest - 1) {
      const int lane = __builtin_ctz(rest);
      if (!knows(thread, lane, cell.read_stamp)) others |= 1u << lane;
    }
  }
  cell.read_warp = warp;
  cell.read_epoch = epoch;
  cell.read_stamp = warp_time[warp];
  cell.read_lanes = others | 1u << (thread % 32);
  cell.read_code = code;
}

void check_byte(Cell& cell, Access access, const void* code) {
  const int thread = block.running;
  if (cell.block != block_serial) {
    cell = Cell{};
    cell.block = block_serial;
    cell.writer = cell.read_warp = kNobody;
  }
  if (cell.writer == kNobody && access != Access::kWrite) {
    fault("read of shared memory that nothing wrote at %s", code_place(code).c_str());
  }
  const char* const what = access == Access::kRead ? "read" : access == Access::kWrite ? "write" : "atomic";
  const bool both_atomic = access == Access::kAtomic && cell.atomic;
  if (cell.writer != kNobody && !both_atomic) check_against_write(cell, thread, what, code);
  if (access == Access::kRead) return note_read(cell, thread, code);
  check_against_reads(cell, thread, what, code);
  cell.read_warp = kNobody;
  cell.writer = thread;
  cell.atomic = access == Access::kAtomic;
  cell.write_epoch = epoch;
  cell.write_stamp = warp_time[thread / 32];
  cell.write_code = code;
}

void check(const void* address, size_t bytes, Access access, const void* code) {
  if (running_launch() == nullptr) return;
  bool is_shared = false;
  const Access plain = access == Access::kRelaxedRead    ? Access::kRead
                       : access == Access::kRelaxedWrite ? Access::kWrite
                                                         : access;
  for (int i = 0; i < 2; ++i) {
    const size_t at = static_cast<size_t>(static_cast<const char*>(address) - ranges[i].begin);
    if (at >= ranges[i].bytes) continue;
    is_shared = true;
    for (size_t j = at; j < std::min(at + bytes, ranges[i].bytes); ++j) check_byte(cells[i][j], plain, code);
  }
  if (!is_shared) check_global(address, bytes, access, code);
}

}  // namespace

bool knows(int thread, int lane, unsigned time) { return thread % 32 == lane || known[thread][lane] > time; }
unsigned warp_time_of(int thread) { return warp_time[thread / 32]; }

void note_block() {
  ++block_serial;
  epoch = 0;
  std::fill(std::begin(warp_time), std::end(warp_time), 0u);
  std::memset(known, 0, sizeof(known));
  ranges[0] = static_range();
  ranges[1] = dynamic_range();
  for (int i = 0; i < 2; ++i) {
    if (cells[i].size() < ranges[i].bytes) cells[i].resize(ranges[i].bytes);
  }
  note_global_block();
}

void note_barrier() {
  ++epoch;
  note_global_barrier();
}

void note_syncwarp(unsigned mask) {
  const int first = block.running - block.running % 32;
  const unsigned now = ++warp_time[first / 32];
  unsigned joined[32] = {};
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    for (int of = 0; of < 32; ++of) joined[of] = std::max(joined[of], known[first + lane][of]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    for (int of = 0; of < 32; ++of) known[first + lane][of] = (mask >> of & 1u) != 0 ? now : joined[of];
  }
}

void note_atomic(const void* address, size_t bytes, const void* caller) {
  check(address, bytes, Access::kAtomic, caller);
}

void note_uncached_load(const void* address, size_t bytes, const void* caller) {
  check(address, bytes, Access::kRelaxedRead, caller);
}

}  // namespace emu

#define EMU_HOOK(name, bytes, access)                                             \
  extern "C" void __tsan_##name(void* address) {                                  \
    emu::check(address, bytes, emu::Access::access, __builtin_return_address(0)); \
  }
#define EMU_HOOKS(bytes)                              \
  EMU_HOOK(read##bytes, bytes, kRead)                 \
  EMU_HOOK(write##bytes, bytes, kWrite)               \
  EMU_HOOK(unaligned_read##bytes, bytes, kRead)       \
  EMU_HOOK(unaligned_write##bytes, bytes, kWrite)     \
  EMU_HOOK(volatile_read##bytes, bytes, kRelaxedRead) \
  EMU_HOOK(volatile_write##bytes, bytes, kRelaxedWrite)
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)
extern "C" void __tsan_read_range(void* address, unsigned long bytes) {
  emu::check(address, bytes, emu::Access::kRead, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* address, unsigned long bytes) {
  emu::check(address, bytes, emu::Access::kWrite, __builtin_return_address(0));
}
extern "C" void __tsan_init() {}
extern "C" void __tsan_vptr_update(void**, void*) {}
extern "C" void __tsan_vptr_read(void**) {}
#endif  // SSD_OPS_EMU_CHECKED
