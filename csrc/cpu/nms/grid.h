// A uniform grid over many kept boxes: a box is compared with those of one or a few cells instead of all.
//
// A kept box is in the list of every cell that it covers. It suppresses another box only if the intersection is wider
// than t (the threshold) times either width and higher than t times either height, for IoU <= intersection width /
// width of either. An interval longer than t * w within [x1, x2] meets the core [x1 + t * w, x2 - t * w] (its center if
// t >= 1/2), so only the cells of the core are searched. Cells are hashed, so that distant boxes cost no memory; two
// cells that share a list cost time but change no result. The mapping to cells is monotone, and the core is slightly
// larger than needed, so rounding loses no pair.
#pragma once

#include "cpu/common/sort.h"
#include "cpu/nms/suppress.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

template <typename T>
class Grid {
 public:
  static constexpr int64_t kMaxCells = 16;  // a box that covers more is compared with all boxes
  static constexpr T kCellsPerSide =
      T(1);  // of a box: larger cells hold more boxes, in smaller ones boxes have more copies

  Grid(BoxLists<T>& kept, int64_t kept_count, int64_t boxes, const SuppressionThresholds<T>& thresholds)
      : thresholds_(thresholds),
        all_(kept),
        lists_(int64_t(1) << bits_for(boxes)),
        cells_(lists_ + 1, thresholds),
        shift_(64 - bits_for(boxes)) {
    cells_.reserve(boxes / 4);
    const T t = thresholds.iou < T(0.5) ? thresholds.iou : T(0.5);
    core_ = t < T(1e-3) ? T(0) : t * T(1 - 1e-5);
    Scratch<KeyIndex<sort_key_t<T>>> sides(kept_count);
    per_width_ = kCellsPerSide / median(kept, sides, [](const Box<T>& b) { return b.x2 - b.x1; });
    per_height_ = kCellsPerSide / median(kept, sides, [](const Box<T>& b) { return b.y2 - b.y1; });
    kept.for_each(0, [&](const Box<T>& box, T box_area) { insert(box, box_area); });
  }

  void add(const Box<T>& box, T box_area) {
    all_.add(0, box, box_area);
    insert(box, box_area);
  }

  bool suppresses(const Box<T>& box, T box_area) const {
    if (!can_suppress(box, box_area, thresholds_)) return false;  // its coordinates may have no cells
    const T dx = core_ * (box.x2 - box.x1), dy = core_ * (box.y2 - box.y1);
    const Cells c = cells_of(box.x1 + dx, box.y1 + dy, box.x2 - dx, box.y2 - dy, box_area);
    if (c.too_many) return all_.suppresses(0, box, box_area);
    for (int64_t y = c.y1; y <= c.y2; ++y) {
      for (int64_t x = c.x1; x <= c.x2; ++x) {
        if (cells_.suppresses(list_of(x, y), box, box_area)) return true;
      }
    }
    return cells_.suppresses(lists_, box, box_area);
  }

 private:
  struct Cells {
    int64_t x1, y1, x2, y2;
    bool too_many;
  };

  void insert(const Box<T>& box, T box_area) {
    const Cells c = cells_of(box.x1, box.y1, box.x2, box.y2, box_area);
    if (c.too_many) return cells_.add(lists_, box, box_area);  // the last list: boxes that all boxes are compared with
    for (int64_t y = c.y1; y <= c.y2; ++y)
      for (int64_t x = c.x1; x <= c.x2; ++x) cells_.add(list_of(x, y), box, box_area);
  }

  // About 8 boxes per list, so that blocks are full and memory stays a few numbers per box.
  static int bits_for(int64_t boxes) {
    int bits = 6;
    while (bits < 31 && (int64_t(8) << bits) < boxes) ++bits;
    return bits;
  }

  template <typename Side>
  static T median(const BoxLists<T>& kept, Scratch<KeyIndex<sort_key_t<T>>>& sides, Side side) {
    int64_t n = 0;
    Scratch<T> values(sides.size());
    kept.for_each(0, [&](const Box<T>& box, T) {
      values[n] = side(box);
      sides[n] = {descending_key_nan_first(values[n]), static_cast<uint32_t>(n)};
      ++n;
    });
    stable_sort(sides.data(), n);
    const T smallest = std::numeric_limits<T>::min() * 16, middle = values[sides[n / 2].index];
    return middle > smallest ? middle : smallest;  // so that its inverse is finite
  }

  // Areas near the smallest normal number are too imprecise for the argument above.
  Cells cells_of(T x1, T y1, T x2, T y2, T box_area) const {
    const Cells c{cell(x1 * per_width_), cell(y1 * per_height_), cell(x2 * per_width_), cell(y2 * per_height_), false};
    const bool imprecise = box_area < std::numeric_limits<T>::min() * (1 << 24);
    return {c.x1, c.y1, c.x2, c.y2, imprecise || (c.x2 - c.x1 + 1) * (c.y2 - c.y1 + 1) > kMaxCells};
  }

  // Rounds down; all distant coordinates share a cell.
  static int64_t cell(T x) {
    const T near = x > T(1e9) ? T(1e9) : x < T(-1e9) ? T(-1e9) : x;
    const int64_t towards_zero = static_cast<int64_t>(near);
    return towards_zero - (near < static_cast<T>(towards_zero) ? 1 : 0);
  }

  int64_t list_of(int64_t x, int64_t y) const {
    const uint64_t mixed =
        static_cast<uint64_t>(x) * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(y) * 0xc2b2ae3d27d4eb4fu;
    return static_cast<int64_t>((mixed ^ mixed >> 32) * 0xd6e8feb86659fd93u >> shift_);
  }

  SuppressionThresholds<T> thresholds_;
  BoxLists<T>& all_;
  int64_t lists_;
  BoxLists<T> cells_;
  int shift_;
  T core_, per_width_, per_height_;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
