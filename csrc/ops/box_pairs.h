// Validation for the ops over all pairs of two sets of boxes.
#pragma once

#include "ops/check.h"

namespace ssd_ops {

inline void check_pairs(const Tensor& boxes1, const Tensor& boxes2) {
  const auto check_one = [](const char* name, const Tensor& t) {
    check_shape(name, t, "[..., N, 4]", t.dim() >= 2 && t.size(t.dim() - 1) == 4);
    check_floating(name, t);
  };
  check_one("boxes1", boxes1);
  check_one("boxes2", boxes2);
  check_same_device("boxes2", boxes2, "boxes1", boxes1);
  check_same_dtype("boxes2", boxes2, "boxes1", boxes1);
  const auto leading = [](const Tensor& t) { return std::vector<int64_t>(t.sizes().begin(), t.sizes().end() - 2); };
  if (leading(boxes1) != leading(boxes2))
    fail("boxes2 must have the leading dimensions of boxes1, " + bracketed(leading(boxes1)) + ", got " +
         bracketed(leading(boxes2)));
}

// The shape of a matrix over all pairs.
inline std::vector<int64_t> pairs_shape(const Tensor& boxes1, const Tensor& boxes2) {
  std::vector<int64_t> shape(boxes1.sizes().begin(), boxes1.sizes().end() - 1);
  shape.push_back(boxes2.size(boxes2.dim() - 2));
  return shape;
}

}  // namespace ssd_ops
