// Writing a large result to fresh memory costs more in page faults than in stores: 4 KB each. With this advice Linux
// maps 2 MB pages.
#pragma once

#include <cstdint>

#include "ops/check.h"
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ssd_ops {

// Advises huge pages for a large CPU tensor that has just been allocated; no effect on its values.
inline void prefer_huge_pages([[maybe_unused]] const Tensor& fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t bytes = static_cast<uintptr_t>(fresh.numel()) * fresh.element_size();
  if (!fresh.is_cpu() || bytes < 4 * kHuge) return;
  const uintptr_t data = reinterpret_cast<uintptr_t>(fresh.const_data_ptr());
  const uintptr_t begin = (data + kHuge - 1) / kHuge * kHuge, end = (data + bytes) / kHuge * kHuge;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace ssd_ops
