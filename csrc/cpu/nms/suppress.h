// Kept boxes, and the question whether one of them suppresses another box ("pull": no matrix, memory O(kept)).
#pragma once

#ifdef SSD_OPS_ISA_AVX2
#include <immintrin.h>
#endif

#include <cstdint>
#include <limits>

#include "core/suppression.h"
#include "cpu/common/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// A box that overlaps others, so that it may suppress or be suppressed. One with an inverted side or without area
// overlaps nothing, IoUs with a NaN or infinite area are NaN or 0: such boxes are kept and forgotten. Below a threshold
// under 0 every box suppresses all those whose IoU with it is a number.
template <typename T>
inline __attribute__((always_inline)) bool takes_part(const Box<T>& box, T box_area, const SuppressionRule<T>& rule) {
  if (rule.threshold < T(0)) return box_area == box_area;
  return box.x2 > box.x1 && box.y2 > box.y1 && box_area > T(0) && box_area <= std::numeric_limits<T>::max();
}

// A cache line of boxes in separate arrays; the loops over the lanes become vectors. Empty lanes hold inverted boxes.
template <typename T>
struct alignas(64) BoxBlock {
  static constexpr int kLanes = 64 / sizeof(T);
  T x1[kLanes], y1[kLanes], x2[kLanes], y2[kLanes], share[kLanes];

  inline __attribute__((always_inline)) Box<T> box(int lane) const { return {x1[lane], y1[lane], x2[lane], y2[lane]}; }
};

// How far the overlaps of a box with those in each lane of some blocks exceed their shares of area, at most. All blocks
// are asked before the answer is looked at: nobody can foretell which one suppresses, and a branch that is foretold
// wrongly costs more than a block.
template <typename T>
struct alignas(64) Excess {
  static constexpr int kLanes = BoxBlock<T>::kLanes;
  T lane[kLanes] = {};

  inline __attribute__((always_inline)) void ask(const BoxBlock<T>& kept, const Box<T>& box) {
    for (int l = 0; l < kLanes; ++l) {
      // One side of at least 0 is enough: where the other is negative, so is the product, or NaN for an empty lane.
      const T left = greater(box.x1, kept.x1[l]), top = greater(box.y1, kept.y1[l]);
      const T width = greater(lesser(box.x2, kept.x2[l]), left) - left, height = lesser(box.y2, kept.y2[l]) - top;
      lane[l] = greater(width * height - kept.share[l], lane[l]);
    }
  }

  // A bit for each lane above the bound. The compiler's own reduction takes a dozen dependent instructions.
  inline __attribute__((always_inline)) uint32_t above(T bound) const {
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

// Lists of kept boxes that share one store of blocks: the classes of an image, or the cells of a grid.
template <typename T>
class BoxLists {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;

  BoxLists(int64_t lists, const SuppressionRule<T>& rule) : rule_(rule), ends_(lists) { clear(); }

  // Asks for room at once, which costs address space until it is used; growing costs a copy into fresh pages each time.
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
    block.share[lane] = area_share(box_area, rule_);
  }

  // Whether a box of the list suppresses this one, which need not take part.
  bool suppress(int64_t list, const Box<T>& box, T box_area) const {
    const T share = area_share(box_area, rule_), sure = share + sure_excess(box_area, rule_);
    for (uint32_t i = ends_[list].first; i != kNone;) {
      const uint32_t first = i;
      Excess<T> excess;
      for (int n = 0; n < kTogether && i != kNone; ++n, i = links_[i].next) excess.ask(blocks_[i], box);
      const uint32_t suspects = rule_.threshold < T(0) ? ~0u : excess.above(share);
      if (suspects == 0) continue;
      if (excess.above(sure) != 0 || suppresses_within(first, i, suspects, box, box_area)) return true;
    }
    return false;
  }

  // Calls f(box, area) for every box of a list.
  template <typename F>
  void each(int64_t list, F&& f) const {
    for (uint32_t i = ends_[list].first; i != kNone; i = links_[i].next) {
      for (uint32_t lane = 0; lane < links_[i].count; ++lane) {
        const Box<T> box = blocks_[i].box(static_cast<int>(lane));
        f(box, area(box));
      }
    }
  }

 private:
  static constexpr int kTogether = 4;  // blocks

  struct Link {
    uint32_t next;  // the block behind this one in its list, or kNone
    uint32_t count;
  };
  struct Ends {
    uint32_t first, last;
  };

  uint32_t append_block(Ends& ends) {
    if (used_ == blocks_.size()) reserve(used_ == 0 ? 16 : 2 * used_);
    const T inf = std::numeric_limits<T>::infinity();
    BoxBlock<T>& fresh = blocks_[used_];
    for (int lane = 0; lane < BoxBlock<T>::kLanes; ++lane) {
      fresh.x1[lane] = fresh.y1[lane] = inf;
      fresh.x2[lane] = fresh.y2[lane] = -inf;
      fresh.share[lane] = T(0);
    }
    const uint32_t last = static_cast<uint32_t>(used_++);
    links_[last] = {kNone, 0};
    (ends.last == kNone ? ends.first : links_[ends.last].next) = last;
    return ends.last = last;
  }

  // Decides within a rounding of the threshold, and below 0, for some lanes of the blocks from `first` to before
  // `last`.
  bool suppresses_within(uint32_t first, uint32_t last, uint32_t lanes, const Box<T>& box, T box_area) const {
    for (uint32_t i = first; i != last; i = links_[i].next) {
      for (uint32_t lane = 0; lane < links_[i].count; ++lane) {
        const Box<T> kept = blocks_[i].box(static_cast<int>(lane));
        if ((lanes >> lane & 1) && suppresses(kept, box, area(kept), box_area, rule_)) return true;
      }
    }
    return false;
  }

  SuppressionRule<T> rule_;
  Scratch<Ends> ends_;
  Scratch<BoxBlock<T>> blocks_;
  Scratch<Link> links_;  // apart from the blocks, so that walking a list does not wait for them
  int64_t used_ = 0;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
