// Lists of kept boxes, and the test whether a box of a list suppresses a new one. NMS visits boxes by descending score
// and tests for each whether a kept box suppresses it: no IoU matrix, memory O(kept).
#pragma once

#ifdef SSD_OPS_ISA_AVX2
#include <immintrin.h>
#endif

#include <cstdint>
#include <limits>

#include "core/suppression.h"
#include "cpu/common/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// Whether a box can have an IoU above the threshold with any other. One with an inverted side or without area overlaps
// nothing, and IoUs with a NaN or infinite area are NaN or 0: such boxes are kept, and need not be compared. With a
// negative threshold a box suppresses every box whose IoU with it is not NaN.
template <typename T>
SSD_OPS_HD bool can_suppress(const Box<T>& box, T box_area, const SuppressionThresholds<T>& thresholds) {
  if (thresholds.iou < T(0)) return box_area == box_area;
  return box.x2 > box.x1 && box.y2 > box.y1 && box_area > T(0) && box_area <= std::numeric_limits<T>::max();
}

// Boxes as a structure of arrays, a cache line each; loops over the lanes vectorize. Empty lanes hold inverted boxes.
template <typename T>
struct alignas(64) BoxBlock {
  static constexpr int kLanes = 64 / sizeof(T);
  T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], scaled_area[kLanes];

  inline __attribute__((always_inline)) Box<T> box(int lane) const { return {x1[lane], y1[lane], x2[lane], y2[lane]}; }
};

// For each lane the maximum excess over some blocks: the intersection of a box with the lane's box minus the scaled
// area of that (suppression.h). Several blocks are tested before branching: the branch is unpredictable, and a
// misprediction costs more than a block.
template <typename T>
struct alignas(64) LaneMaxExcess {
  static constexpr int kLanes = BoxBlock<T>::kLanes;
  T lane[kLanes] = {};

  inline __attribute__((always_inline)) void update(const BoxBlock<T>& kept, const Box<T>& box) {
    for (int l = 0; l < kLanes; ++l) {
      // Only the width is clamped at 0, which saves a maximum: if the height is negative, so is the product, or NaN for
      // an empty lane.
      const T left = greater(box.x1, kept.x1[l]), top = greater(box.y1, kept.y1[l]);
      const T width = greater(lesser(box.x2, kept.x2[l]), left) - left, height = lesser(box.y2, kept.y2[l]) - top;
      lane[l] = greater(width * height - kept.scaled_area[l], lane[l]);
    }
  }

  // A bit for each lane above the bound. Intrinsics, for what compilers generate takes a dozen dependent instructions.
  inline __attribute__((always_inline)) uint32_t lanes_above(T bound) const {
#if defined(SSD_OPS_ISA_AVX512)
    if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask(_mm512_load_ps(lane), _mm512_set1_ps(bound), _CMP_GT_OQ);
    if constexpr (sizeof(T) == 8) return _mm512_cmp_pd_mask(_mm512_load_pd(lane), _mm512_set1_pd(bound), _CMP_GT_OQ);
#elif defined(SSD_OPS_ISA_AVX2)
    uint32_t bits = 0;
    for (int l = 0; l < kLanes; l += kLanes / 2) {
      if constexpr (sizeof(T) == 4) {
        const __m256 is = _mm256_cmp_ps(_mm256_load_ps(lane + l), _mm256_set1_ps(bound), _CMP_GT_OQ);
        bits |= static_cast<uint32_t>(_mm256_movemask_ps(is)) << l;
      } else {
        const __m256d is = _mm256_cmp_pd(_mm256_load_pd(lane + l), _mm256_set1_pd(bound), _CMP_GT_OQ);
        bits |= static_cast<uint32_t>(_mm256_movemask_pd(is)) << l;
      }
    }
    return bits;
#else
    uint32_t bits = 0;
    for (int l = 0; l < kLanes; ++l) bits |= uint32_t(lane[l] > bound) << l;
    return bits;
#endif
  }
};

// Unrolled linked lists of kept boxes in one pool of blocks: a list for each class of an image, or for each cell of a
// grid.
template <typename T>
class BoxLists {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;

  BoxLists(int64_t lists, const SuppressionThresholds<T>& thresholds) : thresholds_(thresholds), ends_(lists) {
    clear();
  }

  // Allocates a capacity at once, which costs only address space until it is used; growing copies into fresh pages.
  void reserve(int64_t blocks) {
    blocks_.grow(blocks);
    links_.grow(blocks);
  }

  void clear() {
    for (int64_t i = 0; i < ends_.size(); ++i) ends_[i] = {kNone, kNone};
    used_ = 0;
  }

  void add(int64_t list, const Box<T>& box, T box_area) {
    uint32_t last = ends_[list].last;
    if (last == kNone || links_[last].count == BoxBlock<T>::kLanes) last = append_block(ends_[list]);
    BoxBlock<T>& block = blocks_[last];
    const uint32_t lane = links_[last].count++;
    block.x1[lane] = box.x1;
    block.y1[lane] = box.y1;
    block.x2[lane] = box.x2;
    block.y2[lane] = box.y2;
    block.scaled_area[lane] = scaled_area(box_area, thresholds_);
  }

  // Whether a box of the list suppresses this one, which may itself be unable to suppress (can_suppress()).
  bool suppresses(int64_t list, const Box<T>& box, T box_area) const {
    const T possible = scaled_area(box_area, thresholds_), certain = possible + rounding_margin(box_area, thresholds_);
    for (uint32_t i = ends_[list].first; i != kNone;) {
      const uint32_t first = i;
      LaneMaxExcess<T> excess;
      for (int n = 0; n < kBlocksPerBranch && i != kNone; ++n, i = links_[i].next) excess.update(blocks_[i], box);
      // One bit for that lane of all of these blocks. With a negative threshold all lanes are candidates, and none is
      // certain, because then the rounding margin is infinite.
      const uint32_t candidate_lanes = thresholds_.iou < T(0) ? ~0u : excess.lanes_above(possible);
      if (candidate_lanes == 0) continue;
      if (excess.lanes_above(certain) != 0 || suppresses_exactly(first, i, candidate_lanes, box, box_area)) return true;
    }
    return false;
  }

  // Calls f(box, area) for every box of a list.
  template <typename F>
  void for_each(int64_t list, F&& f) const {
    for (uint32_t i = ends_[list].first; i != kNone; i = links_[i].next) {
      for (uint32_t lane = 0; lane < links_[i].count; ++lane) {
        const Box<T> box = blocks_[i].box(static_cast<int>(lane));
        f(box, area(box));
      }
    }
  }

 private:
  static constexpr int kBlocksPerBranch = 4;

  struct Link {
    uint32_t next;  // the next block of the list, or kNone
    uint32_t count;
  };
  struct Ends {
    uint32_t first, last;
  };

  uint32_t append_block(Ends& ends) {
    if (used_ == blocks_.size()) reserve(used_ == 0 ? 16 : 2 * used_);
    const T inf = std::numeric_limits<T>::infinity();
    BoxBlock<T>& block = blocks_[used_];
    for (int lane = 0; lane < BoxBlock<T>::kLanes; ++lane) {
      block.x1[lane] = block.y1[lane] = inf;
      block.x2[lane] = block.y2[lane] = -inf;
      block.scaled_area[lane] = T(0);
    }
    const uint32_t last = static_cast<uint32_t>(used_++);
    links_[last] = {kNone, 0};
    (ends.last == kNone ? ends.first : links_[ends.last].next) = last;
    return ends.last = last;
  }

  // The exact test, for pairs within rounding of the threshold and for negative thresholds: some lanes of the blocks
  // from `first` up to, not including, `end`.
  bool suppresses_exactly(uint32_t first, uint32_t end, uint32_t candidate_lanes, const Box<T>& box, T box_area) const {
    for (uint32_t i = first; i != end; i = links_[i].next) {
      for (uint32_t lane = 0; lane < links_[i].count; ++lane) {
        const Box<T> kept = blocks_[i].box(static_cast<int>(lane));
        if ((candidate_lanes >> lane & 1) && ssd_ops::suppresses(kept, box, area(kept), box_area, thresholds_))
          return true;
      }
    }
    return false;
  }

  SuppressionThresholds<T> thresholds_;
  Scratch<Ends> ends_;
  Scratch<BoxBlock<T>> blocks_;
  Scratch<Link> links_;  // not in the blocks, so that following a list does not depend on loading them
  int64_t used_ = 0;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
