#include <cstdlib>
#include "scheduler.h"
namespace emu {
static char* memory = nullptr; static size_t bytes_ = 0;
void begin_shared(size_t n, uint64_t noise) {
  if (!memory) memory = static_cast<char*>(aligned_alloc(128, 1 << 20));
  bytes_ = n; uint32_t p = static_cast<uint32_t>(noise) | 0x40000000u;
  for (size_t i = 0; i + 4 <= n + 3; i += 4) std::memcpy(memory + i, &p, 4);
}
void end_shared() {}
void* dynamic_shared() { return memory; }
uint64_t seed_from_environment() { const char* s = getenv("SSD_OPS_EMU_SEED"); return s ? strtoull(s, nullptr, 10) : 1; }
void note_block() {} void note_barrier() {} void note_syncwarp(unsigned) {}
}
