// SSD_OPS_IVDEP before a loop: its iterations are independent, so it vectorizes without a check whether arrays overlap.
#pragma once

#ifdef __clang__
#define SSD_OPS_IVDEP _Pragma("clang loop vectorize(assume_safety)")
#else
#define SSD_OPS_IVDEP _Pragma("GCC ivdep")
#endif
