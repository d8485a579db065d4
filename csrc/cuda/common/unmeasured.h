// The switch for kernels that no GPU has run yet.
#pragma once

#include <cstdlib>
#include <string_view>

namespace ssd_ops {

// Whether a launcher may choose such kernels: SSD_OPS_UNMEASURED_KERNELS=1 in the environment, off by default. Every
// call is listed in benchmarks/GPU.md with a prediction. When `pytest -m cuda` has passed on a GPU and the prediction
// has become a measurement, the call is removed, and so is the slower path.
inline bool uses_unmeasured_kernels() {
  const auto is_on = [] {
    const char* value = std::getenv("SSD_OPS_UNMEASURED_KERNELS");
    return value != nullptr && std::string_view(value) == "1";
  };
#ifdef SSD_OPS_EMULATED
  return is_on();  // tests switch it between calls
#else
  static const bool on = is_on();  // the size of a workspace depends on it: it must not change
  return on;
#endif
}

}  // namespace ssd_ops
