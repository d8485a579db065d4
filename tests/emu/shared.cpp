// Test only: shared memory. It is filled with poison before each block, so that a block sees no data of another one; so
// are allocations of global memory.
#include <link.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "scheduler.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace emu {
namespace {

constexpr size_t kRedZone = 4096;

// NaN and -1; the largest finite floats and integers; the smallest integers; what most memory holds in fact.
constexpr uint32_t kPoisons[] = {0xffffffffu, 0x7f7fffffu, 0x80000080u, 0u};

size_t dynamic_bytes_now = 0;

// Dynamic shared memory with a guard zone on either side.
char* dynamic_base() {
  static char* const memory = static_cast<char*>(
      mmap(nullptr, kSharedBytesOptin + 2 * kRedZone, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  return memory + kRedZone;
}

void fill(char* begin, size_t bytes, uint32_t poison) {
  size_t i = 0;
  for (; i + sizeof(poison) <= bytes; i += sizeof(poison)) std::memcpy(begin + i, &poison, sizeof(poison));
  for (; i < bytes; ++i) begin[i] = static_cast<char>(poison >> (i % 4 * 8));
}

uint32_t chosen_poison(uint64_t noise) {
  const char* text = getenv("SSD_OPS_EMU_POISON");
  return text == nullptr ? kPoisons[noise % 4] : static_cast<uint32_t>(strtoul(text, nullptr, 16));
}

// Static shared arrays are this library's thread-local variables without an initial value, the end of its segment.
int find_segment(dl_phdr_info* library, size_t, void* result) {
  const auto here = reinterpret_cast<uintptr_t>(&find_segment);
  const ElfW(Phdr)* thread_local_segment = nullptr;
  bool ours = false;
  for (int i = 0; i < library->dlpi_phnum; ++i) {
    const ElfW(Phdr) & header = library->dlpi_phdr[i];
    const uintptr_t begin = library->dlpi_addr + header.p_vaddr;
    if (header.p_type == PT_LOAD && here >= begin && here < begin + header.p_memsz) ours = true;
    if (header.p_type == PT_TLS) thread_local_segment = &header;
  }
  if (!ours) return 0;
  if (thread_local_segment != nullptr && library->dlpi_tls_data != nullptr) {
    auto* range = static_cast<Range*>(result);
    range->begin = static_cast<char*>(library->dlpi_tls_data) + thread_local_segment->p_filesz;
    range->bytes = thread_local_segment->p_memsz - thread_local_segment->p_filesz;
  }
  return 1;
}

}  // namespace

uint64_t seed_from_environment() {
  const char* text = getenv("SSD_OPS_EMU_SEED");
  return text == nullptr ? 1 : strtoull(text, nullptr, 10);
}

void* dynamic_shared() { return dynamic_base(); }

Range dynamic_range() { return {dynamic_base(), dynamic_bytes_now}; }

// Touched, so that the segment of the calling thread exists before the first kernel uses it.
thread_local volatile char segment_exists;

Range static_range() {
#ifdef __SANITIZE_ADDRESS__
  return {nullptr, 0};  // plain static variables there, see cuda_runtime.h
#else
  segment_exists = 1;
  thread_local Range range{nullptr, 1};  // initialized, so that it is not among the poisoned variables
  if (range.begin == nullptr) dl_iterate_phdr(&find_segment, &range);
  return range;
#endif
}

void poison_allocation(void* memory, size_t bytes) {
  fill(static_cast<char*>(memory), bytes, chosen_poison(seed_from_environment()));
}

void begin_shared(size_t dynamic_bytes, uint64_t noise) {
  const uint32_t poison = chosen_poison(noise);
  dynamic_bytes_now = dynamic_bytes;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(dynamic_base() - kRedZone, kSharedBytesOptin + 2 * kRedZone);
#endif
  const Range fixed = static_range();
  fill(fixed.begin, fixed.bytes, poison);
  fill(dynamic_base(), dynamic_bytes, poison);
#ifdef __SANITIZE_ADDRESS__
  __asan_poison_memory_region(dynamic_base() - kRedZone, kRedZone);
  __asan_poison_memory_region(dynamic_base() + dynamic_bytes, kSharedBytesOptin - dynamic_bytes + kRedZone);
#endif
  note_block();
}

}  // namespace emu
