#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include "scheduler.h"
namespace emu {
void fault(const char* f, ...) { va_list a; va_start(a, f); vfprintf(stderr, f, a); va_end(a); fprintf(stderr, "\nblock thread %d\n", thread_rank()); abort(); }
void report_deadlock() { int w = 0; for (int i = 0; i < block.threads; ++i) if (block.fibers[i].state == State::kWarp || block.fibers[i].state == State::kBarrier) { if (w++ < 4) fprintf(stderr, "thread %d waits at %s:%d\n", i, block.fibers[i].where.file, block.fibers[i].where.line); } fault("deadlock, %d wait", w); }
const char* place(Where w) { static char b[8][300]; static int k; char* o = b[k++ % 8]; snprintf(o, 300, "%s:%d", w.file, w.line); return o; }
const char* waiting_place() { return place(block.barrier_where); }
}
