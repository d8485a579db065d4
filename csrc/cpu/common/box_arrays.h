// Loads and stores of boxes, and boxes as a structure of arrays, so that a vector holds one coordinate of many boxes.
#pragma once

#include "core/box.h"

namespace ssd_ops::cpu {

// Box number i of [N, 4].
template <typename T>
SSD_OPS_HD Box<T> load_box(const T* boxes, int64_t i) {
  return {boxes[4 * i], boxes[4 * i + 1], boxes[4 * i + 2], boxes[4 * i + 3]};
}

template <typename T>
SSD_OPS_HD void store_box(const Box<T>& box, T* boxes, int64_t i) {
  boxes[4 * i] = box.x1;
  boxes[4 * i + 1] = box.y1;
  boxes[4 * i + 2] = box.x2;
  boxes[4 * i + 3] = box.y2;
}

namespace SSD_OPS_ISA {

// Fills the arrays x1, y1, x2, y2 and area of boxes [n, 4], `stride` elements apart.
template <typename T>
void split_boxes(const T* boxes, int64_t n, int64_t stride, T* arrays) {
  for (int64_t j = 0; j < n; ++j) {
    const Box<T> b = load_box(boxes, j);
    arrays[j] = b.x1;
    arrays[stride + j] = b.y1;
    arrays[2 * stride + j] = b.x2;
    arrays[3 * stride + j] = b.y2;
    arrays[4 * stride + j] = area(b);
  }
}

// The same, followed by the array of aspect angles if `with_angles`.
template <typename T>
void split_boxes(const T* boxes, int64_t n, int64_t stride, bool with_angles, T* arrays) {
  split_boxes(boxes, n, stride, arrays);
  for (int64_t j = 0; with_angles && j < n; ++j) arrays[5 * stride + j] = aspect_angle(load_box(boxes, j));
}

}  // namespace SSD_OPS_ISA
}  // namespace ssd_ops::cpu
