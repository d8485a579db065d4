// The instruction set that the CPU kernels run with, chosen once per process.
#pragma once

namespace ssd_ops {

// In ascending order: each one contains those before it.
enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best set that was compiled in and that this CPU and operating system have. The environment variable
// SSD_OPS_ISA=baseline|avx2|avx512 lowers the choice (it never raises it); another value throws std::runtime_error.
Isa chosen_isa();

}  // namespace ssd_ops
