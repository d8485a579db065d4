// Defines every op of the library from the one list of schemas.
#include "ops/glue.h"

SSD_OPS_LIBRARY(m) {
  for (const char* schema : {
#include "ssd_ops/schemas.def"
       })
    m.def(schema);
}
