// Kept boxes, and the question whether one of them suppresses another box ("pull": no matrix, memory O(kept)).
#pragma once

#ifdef SSD_OPS_ISA_AVX2
#include <immintrin.h>
#endif

#include <cstdint>
#include <limits>

#include "cpu/scratch.h"
#include "suppression.h"

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

  inline __attribute__((always_inline)) Box<T> box(int lane) const { return {x1[lane], y1[lane], x2[lane], y2[lane]}; }
};

// A number for each lane of a block, 0 or -1.
template <typename T>
struct alignas(64) LaneFlags {
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Flag lane[BoxBlock<T>::kLanes];

  // The compiler's own reduction takes a dozen dependent instructions.
  inline __attribute__((always_inline)) bool any() const {
#if defined(SSD_OPS_ISA_AVX512)
    const __m512i flags = _mm512_load_si512(lane);
    return _mm512_test_epi32_mask(flags, flags) != 0;
#elif defined(SSD_OPS_ISA_AVX2)
    const auto* halves = reinterpret_cast<const __m256i*>(lane);
    const __m256i flags = _mm256_or_si256(_mm256_load_si256(halves), _mm256_load_si256(halves + 1));
    return _mm256_testz_si256(flags, flags) == 0;
#else
    Flag any = 0;
    for (const Flag flag : lane) any |= flag;
    return any != 0;
#endif
  }
};

// What the lanes of some blocks answer to one box, all together: branching on every block costs more than its test,
// because nobody can foretell which one suppresses. Empty lanes hold an inverted box.
template <typename T>
struct Answers {
  LaneFlags<T> may{}, must{};

  inline __attribute__((always_inline)) void ask(const BoxBlock<T>& kept, const Box<T>& box, T box_area,
                                                 const SuppressionRule<T>& rule) {
    using Flag = typename LaneFlags<T>::Flag;
    for (int lane = 0; lane < BoxBlock<T>::kLanes; ++lane) {
      const T inter = intersection(kept.box(lane), box);
      const T both = kept.area[lane] + box_area - inter;
      may.lane[lane] |= may_suppress(inter, both, rule) ? Flag(-1) : Flag(0);
      must.lane[lane] |= must_suppress(inter, both, rule) ? Flag(-1) : Flag(0);
    }
  }
};

// Lists of kept boxes that share one store of blocks: the classes of an image, or the cells of a grid.
template <typename T>
class BoxLists {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;

  explicit BoxLists(int64_t lists) : heads_(lists) { clear(); }

  // Asks for room at once, which costs address space until it is used; growing costs a copy into fresh pages each time.
  void reserve(int64_t blocks) { blocks_.grow(blocks); }

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
    for (uint32_t i = heads_[list]; i != kNone;) {
      const uint32_t first = i;
      Answers<T> answers;
      for (int k = 0; k < kTogether && i != kNone; ++k, i = blocks_[i].next)
        answers.ask(blocks_[i], box, box_area, rule);
      if (!answers.may.any()) continue;
      if (answers.must.any() || suppresses_within(first, i, box, box_area, rule)) return true;
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
  static constexpr int kTogether = 8;  // blocks

  // Decides within a rounding of the threshold, for the blocks from `first` to before `last`.
  bool suppresses_within(uint32_t first, uint32_t last, const Box<T>& box, T box_area,
                         const SuppressionRule<T>& rule) const {
    for (uint32_t i = first; i != last; i = blocks_[i].next) {
      const BoxBlock<T>& kept = blocks_[i];
      for (uint32_t lane = 0; lane < kept.count; ++lane) {
        if (suppresses(kept.box(static_cast<int>(lane)), box, kept.area[lane], box_area, rule)) return true;
      }
    }
    return false;
  }

  Scratch<uint32_t> heads_;
  Scratch<BoxBlock<T>> blocks_;
  int64_t used_ = 0;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
