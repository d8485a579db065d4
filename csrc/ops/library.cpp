// Defines every op of the library from the one list of schemas.
#include "cpu/dispatch/isa.h"
#include "ops/glue.h"

namespace ssd_ops {
namespace {

// The instruction set of the CPU kernels as its index in ascending order, for ssd_ops.build_info().
int64_t isa() { return static_cast<int64_t>(chosen_isa()); }

}  // namespace
}  // namespace ssd_ops

SSD_OPS_LIBRARY(m) {
  for (const char* schema : {
#include "ssd_ops/schemas.def"
       })
    m.def(schema);
  m.def("_isa() -> int");
}

SSD_OPS_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("_isa", TORCH_BOX(&ssd_ops::isa)); }
