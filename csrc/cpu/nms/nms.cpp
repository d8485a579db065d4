// Read in this order: nms.h (the parameters), suppress.h (lists of kept boxes), grid.h (the same for many boxes), this
// file.
#include "cpu/nms/nms.h"

#include "cpu/common/sort.h"
#include "cpu/nms/grid.h"
#include "cpu/nms/suppress.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

constexpr int64_t kGridFrom = 128;  // kept boxes; for fewer, comparing with all of them is faster

template <typename T>
void sort_by_score(const T* scores, int64_t num_boxes, uint32_t* order) {
  Scratch<KeyIndex<sort_key_t<T>>> items(num_boxes);
  for (int64_t i = 0; i < num_boxes; ++i) items[i] = {descending_key_nan_first(scores[i]), static_cast<uint32_t>(i)};
  stable_sort(items.data(), num_boxes);
  for (int64_t i = 0; i < num_boxes; ++i) order[i] = items[i].index;
}

// All kept boxes in one list.
template <typename T>
struct KeptList {
  BoxLists<T> lists;

  bool suppresses(const Box<T>& box, T box_area) const { return lists.suppresses(0, box, box_area); }
  void add(const Box<T>& box, T box_area) { lists.add(0, box, box_area); }
};

// Visits the boxes index_of(begin) .. index_of(end - 1), until `max_added` of them are added to `kept`, and calls
// mark(i, keep) for each; returns the first i that it has not visited.
template <typename T, typename Kept, typename IndexOf, typename Mark>
int64_t visit(const NmsParams<T>& params, int64_t begin, int64_t end, int64_t max_added, Kept& kept,
              const IndexOf& index_of, const Mark& mark) {
  int64_t i = begin;
  for (int64_t added = 0; i < end && added < max_added; ++i) {
    __builtin_prefetch(params.boxes + index_of(i + 8 < end ? i + 8 : i));
    const Box<T> box = params.boxes[index_of(i)];
    const T box_area = area(box);
    const bool keep = !kept.suppresses(box, box_area);
    mark(i, keep);
    if (!keep || !can_suppress(box, box_area, params.thresholds)) continue;
    kept.add(box, box_area);
    ++added;
  }
  return i;
}

template <typename T, typename IndexOf, typename Mark>
void suppress(const NmsParams<T>& params, int64_t begin, int64_t end, const IndexOf& index_of, const Mark& mark) {
  KeptList<T> few{BoxLists<T>(1, params.thresholds)};
  const bool may_use_grid = params.thresholds.iou >= T(0) && end - begin > 2 * kGridFrom;
  const int64_t rest = visit(params, begin, end, may_use_grid ? kGridFrom : end - begin, few, index_of, mark);
  if (rest == end) return;
  Grid<T> many(few.lists, kGridFrom, end - begin, params.thresholds);
  visit(params, rest, end, end - rest, many, index_of, mark);
}

template <typename T>
int64_t suppress_ranks(const NmsParams<T>& params, int64_t num_boxes, uint32_t* kept) {
  int64_t count = 0;
  const auto index_of = [order = params.order](int64_t rank) { return order[rank]; };
  suppress(params, 0, num_boxes, index_of,
           [&](int64_t rank, bool keep) {  // branch-free: whether a box is kept is unpredictable
             kept[count] = index_of(rank);
             count += keep;
           });
  return count;
}

template <typename T>
void suppress_members(const NmsParams<T>& params, const uint32_t* members, int64_t begin, int64_t end, uint8_t* keep) {
  const auto index_of = [order = params.order, members](int64_t i) { return order[members[i]]; };
  suppress(params, begin, end, index_of, [=](int64_t i, bool kept) { keep[members[i]] = kept; });
}

}  // namespace

void order_by_score(const float* scores, int64_t num_boxes, uint32_t* order) {
  sort_by_score(scores, num_boxes, order);
}
void order_by_score(const double* scores, int64_t num_boxes, uint32_t* order) {
  sort_by_score(scores, num_boxes, order);
}

int64_t group_by_class(const int64_t* classes, const uint32_t* order, int64_t num_boxes, uint32_t* members,
                       uint32_t* starts) {
  int64_t lowest = classes[0];
  for (int64_t i = 1; i < num_boxes; ++i) lowest = classes[i] < lowest ? classes[i] : lowest;
  Scratch<KeyIndex<uint64_t>> items(num_boxes);
  for (int64_t rank = 0; rank < num_boxes; ++rank) {
    const uint64_t above_lowest = static_cast<uint64_t>(classes[order[rank]]) - static_cast<uint64_t>(lowest);
    items[rank] = {above_lowest, static_cast<uint32_t>(rank)};
  }
  stable_sort(items.data(), num_boxes);
  int64_t groups = 0;
  for (int64_t i = 0; i < num_boxes; ++i) {
    members[i] = items[i].index;
    if (i == 0 || items[i].key != items[i - 1].key) starts[groups++] = static_cast<uint32_t>(i);
  }
  starts[groups] = static_cast<uint32_t>(num_boxes);
  return groups;
}

int64_t suppress_all(const NmsParams<float>& params, int64_t num_boxes, uint32_t* kept) {
  return suppress_ranks(params, num_boxes, kept);
}
int64_t suppress_all(const NmsParams<double>& params, int64_t num_boxes, uint32_t* kept) {
  return suppress_ranks(params, num_boxes, kept);
}
void suppress_group(const NmsParams<float>& params, const uint32_t* members, int64_t begin, int64_t end,
                    uint8_t* keep) {
  suppress_members(params, members, begin, end, keep);
}
void suppress_group(const NmsParams<double>& params, const uint32_t* members, int64_t begin, int64_t end,
                    uint8_t* keep) {
  suppress_members(params, members, begin, end, keep);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
