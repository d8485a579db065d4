// Run-time choice among the copies of a CPU kernel, one for each instruction set.
//
// A header declares a kernel once:
//   SSD_OPS_CPU_KERNEL(void, box_iou_rows, const IouParams<float>& params, int64_t begin)
// its .cpp file, compiled once for each set, defines it inside
//   namespace ssd_ops::cpu::SSD_OPS_ISA { ... }
// and csrc/ops calls it:
//   SSD_OPS_CPU(box_iou_rows, params, begin);
#pragma once

#include "cpu/dispatch/isa.h"

#if defined(__x86_64__)
#define SSD_OPS_CPU_KERNEL(result, name, ...) \
  namespace ssd_ops::cpu {                    \
  namespace baseline {                        \
  result name(__VA_ARGS__);                   \
  }                                           \
  namespace avx2 {                            \
  result name(__VA_ARGS__);                   \
  }                                           \
  namespace avx512 {                          \
  result name(__VA_ARGS__);                   \
  }                                           \
  }
#define SSD_OPS_CPU(name, ...)                                                                   \
  (::ssd_ops::chosen_isa() == ::ssd_ops::Isa::avx512 ? ::ssd_ops::cpu::avx512::name(__VA_ARGS__) \
   : ::ssd_ops::chosen_isa() == ::ssd_ops::Isa::avx2 ? ::ssd_ops::cpu::avx2::name(__VA_ARGS__)   \
                                                     : ::ssd_ops::cpu::baseline::name(__VA_ARGS__))
#else
#define SSD_OPS_CPU_KERNEL(result, name, ...) \
  namespace ssd_ops::cpu::baseline {          \
  result name(__VA_ARGS__);                   \
  }
#define SSD_OPS_CPU(name, ...) ::ssd_ops::cpu::baseline::name(__VA_ARGS__)
#endif
