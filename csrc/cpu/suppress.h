// Kept boxes, and the question whether one of them suppresses another box ("pull": no matrix, memory O(kept)).
#pragma once

#include <cstdint>
#include <limits>

#include "box.h"
#include "cpu/nms.h"
#include "cpu/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// A box that overlaps others, so that it may suppress or be suppressed. One with an inverted side or without area
// overlaps nothing, IoUs with a NaN or infinite area are NaN or 0: such boxes are kept and forgotten. Below a threshold
// under 0 every box suppresses all those whose IoU with it is a number.
template <typename T>
inline __attribute__((always_inline)) bool takes_part(const Box<T>& box, T box_area, const SuppressionRule<T>& rule) {
  if (rule.threshold < T(0)) return box_area == box_area;
  return box.x2 > box.x1 && box.y2 > box.y1 && box_area > T(0) && box_area <= std::numeric_limits<T>::max();
}

// A cache line of boxes in separate arrays; the loops over the lanes become vectors.
template <typename T>
struct alignas(64) BoxBlock {
  static constexpr int kLanes = 64 / sizeof(T);
  T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], area[kLanes];
  uint32_t next;  // the block behind it in its list, or kNone
  uint32_t count;

  Box<T> box(int lane) const { return {x1[lane], y1[lane], x2[lane], y2[lane]}; }
};

// Without a division: whether some lane may be above the threshold. rule.low stands a little below the threshold, so
// that no box above it is missed (rounding is monotone, also for denormals, hence >=), and rule.least keeps out the lanes
// without overlap. Empty lanes hold an inverted box.
template <typename T>
inline __attribute__((always_inline)) bool may_suppress(const BoxBlock<T>& kept, const Box<T>& box, T box_area,
                                                        const SuppressionRule<T>& rule) {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Flag any = 0;
  for (int lane = 0; lane < BoxBlock<T>::kLanes; ++lane) {
    const T inter = intersection(kept.box(lane), box);
    const T both = kept.area[lane] + box_area - inter;
    any |= inter >= greater(rule.low * both, rule.least) ? Flag(-1) : Flag(0);
  }
  return any != 0;
}

// The decision itself, as the reference computes it.
template <typename T>
inline bool does_suppress(const BoxBlock<T>& kept, const Box<T>& box, T box_area, const SuppressionRule<T>& rule) {
  for (uint32_t lane = 0; lane < kept.count; ++lane) {
    if (suppression_iou(kept.box(static_cast<int>(lane)), box, kept.area[lane], box_area) > rule.threshold) return true;
  }
  return false;
}

// Lists of kept boxes that share one store of blocks: the classes of an image, or the cells of a grid.
template <typename T>
class BoxLists {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;

  explicit BoxLists(int64_t lists) : heads_(lists) { clear(); }

  void clear() {
    for (int64_t i = 0; i < heads_.size(); ++i) heads_[i] = kNone;
    used_ = 0;
  }

  void add(int64_t list, const Box<T>& box, T box_area) {
    uint32_t head = heads_[list];
    if (head == kNone || blocks_[head].count == BoxBlock<T>::kLanes) {
      if (used_ == blocks_.size()) blocks_.grow(used_ == 0 ? 16 : 2 * used_);
      const T inf = std::numeric_limits<T>::infinity();
      BoxBlock<T>& fresh = blocks_[used_];
      for (int lane = 0; lane < BoxBlock<T>::kLanes; ++lane) {
        fresh.x1[lane] = fresh.y1[lane] = inf;
        fresh.x2[lane] = fresh.y2[lane] = -inf;
        fresh.area[lane] = T(0);
      }
      fresh.next = head;
      fresh.count = 0;
      heads_[list] = head = static_cast<uint32_t>(used_++);
    }
    BoxBlock<T>& block = blocks_[head];
    const uint32_t lane = block.count++;
    block.x1[lane] = box.x1;
    block.y1[lane] = box.y1;
    block.x2[lane] = box.x2;
    block.y2[lane] = box.y2;
    block.area[lane] = box_area;
  }

  bool suppress(int64_t list, const Box<T>& box, T box_area, const SuppressionRule<T>& rule) const {
    for (uint32_t i = heads_[list]; i != kNone; i = blocks_[i].next) {
      if (may_suppress(blocks_[i], box, box_area, rule) && does_suppress(blocks_[i], box, box_area, rule)) return true;
    }
    return false;
  }

  // Calls f(box, area) for every box of a list.
  template <typename F>
  void each(int64_t list, F&& f) const {
    for (uint32_t i = heads_[list]; i != kNone; i = blocks_[i].next) {
      for (uint32_t lane = 0; lane < blocks_[i].count; ++lane)
        f(blocks_[i].box(static_cast<int>(lane)), blocks_[i].area[lane]);
    }
  }

 private:
  Scratch<uint32_t> heads_;
  Scratch<BoxBlock<T>> blocks_;
  int64_t used_ = 0;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
