// Boxes as separate arrays of their numbers, so that a vector holds many boxes.
#pragma once

#include <cstdint>

#include "core/box.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// Fills x1, y1, x2, y2 and area of boxes [n, 4], `stride` numbers apart.
template <typename T>
void split_boxes(const T* boxes, int64_t n, int64_t stride, T* arrays) {
  for (int64_t j = 0; j < n; ++j) {
    const Box<T> b{boxes[4 * j], boxes[4 * j + 1], boxes[4 * j + 2], boxes[4 * j + 3]};
    arrays[j] = b.x1;
    arrays[stride + j] = b.y1;
    arrays[2 * stride + j] = b.x2;
    arrays[3 * stride + j] = b.y2;
    arrays[4 * stride + j] = area(b);
  }
}

// Likewise, and behind the areas the aspect angle, where it is asked for.
template <typename T>
void split_boxes(const T* boxes, int64_t n, int64_t stride, bool with_angles, T* arrays) {
  split_boxes(boxes, n, stride, arrays);
  for (int64_t j = 0; with_angles && j < n; ++j)
    arrays[5 * stride + j] = aspect_angle(Box<T>{boxes[4 * j], boxes[4 * j + 1], boxes[4 * j + 2], boxes[4 * j + 3]});
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
