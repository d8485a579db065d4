#include "cpu/dispatch/isa.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef SSD_OPS_ISA_LIST_X86
#include <cpuid.h>
#endif

namespace ssd_ops {
namespace {

Isa best_of_this_cpu() {
#ifdef SSD_OPS_ISA_LIST_X86
  // __builtin_cpu_supports also checks that the operating system saves the wide registers. Older compilers do not
  // support "f16c" (half precision to float) there, hence bit 29 of ecx in leaf 1.
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1U << 29)) != 0;
  if (!f16c || !__builtin_cpu_supports("avx2")) return Isa::baseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::avx512 : Isa::avx2;
#else
  return Isa::baseline;
#endif
}

Isa choose() {
  const Isa best = best_of_this_cpu();
  const char* requested = std::getenv("SSD_OPS_ISA");
  if (requested == nullptr || *requested == '\0') return best;
  constexpr const char* names[] = {"baseline", "avx2", "avx512"};
  for (int i = 0; i < 3; ++i)
    if (std::string(requested) == names[i]) return std::min(static_cast<Isa>(i), best);
  throw std::runtime_error("SSD_OPS_ISA must be baseline, avx2 or avx512, got \"" + std::string(requested) + "\"");
}

}  // namespace

Isa chosen_isa() {
  static const Isa isa = choose();
  return isa;
}

}  // namespace ssd_ops
