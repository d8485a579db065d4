// Test only: reports of the errors that the scheduler detects. Each ends the process, as a kernel's assertion would.
#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "scheduler.h"

namespace emu {
namespace {

const char* name_of(Warp kind) {
  static const char* const names[] = {
      "__syncwarp",        "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",  "__shfl_xor_sync",
      "__ballot_sync",     "__all_sync",        "__any_sync",        "__match_any_sync",  "__match_all_sync",
      "__reduce_add_sync", "__reduce_min_sync", "__reduce_max_sync", "__reduce_add_sync", "__reduce_min_sync",
      "__reduce_max_sync", "__reduce_and_sync", "__reduce_or_sync",  "__reduce_xor_sync"};
  return names[static_cast<int>(kind)];
}

// The output of addr2line for an address: the function's name in the first line, file:line in the second. Kernels have
// no dynamic symbols, so dladdr() alone does not find them.
std::string symbol(const void* address, int wanted_line, int back) {
  Dl_info library;
  if (dladdr(address, &library) == 0) return "?";
  const auto offset = static_cast<const char*>(address) - static_cast<const char*>(library.dli_fbase) - back;
  char command[1200];
  snprintf(command, sizeof(command), "LD_PRELOAD= addr2line -fCe '%s' 0x%lx 2>/dev/null", library.dli_fname,
           static_cast<unsigned long>(offset));
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return "?";
  char line[4096];
  std::string found = "?";
  for (int i = 0; i <= wanted_line && fgets(line, sizeof(line), pipe) != nullptr; ++i) found = line;
  pclose(pipe);
  while (!found.empty() && found.back() == '\n') found.pop_back();
  return found;
}

void print_index(const char* name, uint3 index) {
  fprintf(stderr, " %s (%u, %u, %u)", name, index.x, index.y, index.z);
}

// One line for each source line at which threads wait, with their number.
void print_waiting() {
  bool told[kMaxThreads] = {};
  for (int i = 0; i < block.threads; ++i) {
    const Fiber& first = block.fibers[i];
    if (told[i] || (first.state != State::kBarrier && first.state != State::kWarp)) continue;
    const bool warp = first.state == State::kWarp;
    int count = 0;
    for (int j = i; j < block.threads; ++j) {
      const Fiber& other = block.fibers[j];
      const bool same = other.state == first.state && other.where.line == first.where.line &&
                        (!warp || (other.mask == first.mask && other.kind == first.kind && i / 32 == j / 32));
      told[j] = told[j] || same;
      count += same ? 1 : 0;
    }
    if (warp) {
      fprintf(stderr, "  %d threads of warp %d wait in %s with mask 0x%08x at %s\n", count, i / 32, name_of(first.kind),
              first.mask, place(first.where));
    } else {
      fprintf(stderr, "  %d threads wait at the barrier at %s\n", count, place(first.where));
    }
  }
  if (block.exited != 0) fprintf(stderr, "  %d threads have ended\n", block.exited);
}

}  // namespace

const char* place(Where where) {
  static char texts[8][512];
  static int next = 0;
  char* text = texts[next++ % 8];
  snprintf(text, sizeof(texts[0]), "%s:%d (%s)", where.file, where.line, where.function);
  return text;
}

const char* waiting_place() { return place(block.barrier_where); }

// A return address belongs to the instruction after the call.
std::string code_place(const void* address) { return symbol(address, 1, 1) + " in " + symbol(address, 0, 1); }

static void print_launch() {
  const Launch* launch = running_launch();
  if (launch == nullptr) return;
  fprintf(stderr, "  kernel %s,", symbol(launch->kernel, 0, 0).c_str());
  print_index("block", blockIdx);
  print_index("thread", threadIdx);
  fprintf(stderr, ", grid (%u, %u, %u) of (%u, %u, %u) threads, seed %llu\n", launch->grid.x, launch->grid.y,
          launch->grid.z, launch->block.x, launch->block.y, launch->block.z,
          static_cast<unsigned long long>(seed_from_environment()));
}

void fault(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "emulator: ");
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  print_launch();
  fflush(stderr);
  abort();
}

void report_deadlock() {
  fprintf(stderr, "emulator: no thread of the block can go on\n");
  print_waiting();
  print_launch();
  fflush(stderr);
  abort();
}

}  // namespace emu
