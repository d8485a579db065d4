// Test only: the state of the block that runs, shared by the parts of the emulator.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>

#include "emu.h"

namespace emu {

// A small generator (splitmix64); seed 0 shuffles nothing.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed), shuffles_(seed != 0) {}
  bool shuffles() const { return shuffles_; }
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  unsigned below(unsigned bound) { return static_cast<unsigned>(((next() & 0xffffffffu) * bound) >> 32); }

 private:
  uint64_t state_;
  bool shuffles_;
};

enum class State : unsigned char { kReady, kBarrier, kWarp, kExited };

// How a block chooses the next fiber: last in, first out, which runs one warp as far as possible, or at random.
enum class Manner : unsigned char { kUp, kDown, kRandom };

struct Fiber {
  State state;
  uint3 index;
  Where where;  // where it waits
  // The warp collective in which it waits.
  Warp kind;
  unsigned mask;
  int argument, width;
  uint64_t value, result;
};

struct Block {
  int threads, running, exited, ready_count;
  bool started;  // some fiber has run
  bool shuffle;  // fibers are shuffled after a barrier, also if the next one is not chosen at random
  Manner manner;
  int waiting;  // threads at the barrier
  int counted;  // those of them whose predicate holds
  int agreed;   // the same of the barrier that was passed last
  Where barrier_where;
  unsigned arrived[kMaxThreads / 32];  // lanes that wait in a warp collective
  short ready[kMaxThreads];
  Fiber fibers[kMaxThreads];

  void start(dim3 shape) {
    threads = static_cast<int>(shape.x * shape.y * shape.z);
    running = exited = ready_count = waiting = 0;
    started = shuffle = false;
    manner = Manner::kUp;
    std::memset(arrived, 0, sizeof(arrived));
    for (int i = 0; i < threads; ++i) {
      const auto rank = static_cast<unsigned>(i);
      fibers[i].index = {rank % shape.x, rank / shape.x % shape.y, rank / shape.x / shape.y};
    }
  }
};
extern Block block;

const Launch* running_launch();
uint64_t seed_from_environment();

// scheduler.cpp: lets a fiber run again; lets the running one wait until another one calls that.
void make_ready(int fiber);
void wait_for_others();

// fault.cpp
[[noreturn]] void report_deadlock();
const char* place(Where where);               // "file:line (function)"; valid until the eighth call after
const char* waiting_place();                  // that of the barrier at which threads wait
std::string code_place(const void* address);  // "file:line in function" of a return address

// shared.cpp: before each block; `noise` chooses among poisons where the environment does not.
void begin_shared(size_t dynamic_bytes, uint64_t noise);
struct Range {
  char* begin;
  size_t bytes;
};
Range static_range();
Range dynamic_range();

// scheduler.cpp: where the fibers have their stacks.
Range stack_range();

// check.cpp and check_global.cpp, which only the checked build has. Relaxed: volatile, or past L1.
#ifdef SSD_OPS_EMU_CHECKED
enum class Access { kRead, kWrite, kAtomic, kRelaxedRead, kRelaxedWrite };
void check_global(const void* address, size_t bytes, Access access, const void* code);
bool knows(int thread, int lane, unsigned time);  // whether a thread waited for a lane of its warp after that time
unsigned warp_time_of(int thread);
void note_launch(bool early);
void note_block();
void note_global_block();
void note_barrier();
void note_global_barrier();
void note_syncwarp(unsigned mask);
void note_end();
#else
inline void note_launch(bool) {}
inline void note_block() {}
inline void note_barrier() {}
inline void note_syncwarp(unsigned) {}
inline void note_end() {}
#endif

}  // namespace emu
