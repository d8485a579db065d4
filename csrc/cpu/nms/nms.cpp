#include "cpu/nms/nms.h"

#include "cpu/common/sort.h"
#include "cpu/nms/grid.h"
#include "cpu/nms/suppress.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

constexpr int64_t kGridFrom = 128;  // kept boxes; below, comparing with all is faster

template <typename T>
void order_of(const T* scores, int64_t n, uint32_t* order) {
  Scratch<Ranked<key_t<T>>> items(n);
  for (int64_t i = 0; i < n; ++i) items[i] = {falling_key(scores[i]), static_cast<uint32_t>(i)};
  stable_sort(items.data(), n);
  for (int64_t i = 0; i < n; ++i) order[i] = items[i].index;
}

// One list of all that are kept.
template <typename T>
struct KeptList {
  BoxLists<T> lists;

  bool suppress(const Box<T>& box, T box_area) const { return lists.suppress(0, box, box_area); }
  void add(const Box<T>& box, T box_area) { lists.add(0, box, box_area); }
};

// Goes through the boxes index_of(begin) .. index_of(end - 1) until `most` of them were added to `kept`, and calls
// mark(i, keeps) for each; returns the first that is left.
template <typename T, typename Kept, typename IndexOf, typename Mark>
int64_t walk(const NmsTask<T>& task, int64_t begin, int64_t end, int64_t most, Kept& kept, const IndexOf& index_of,
             const Mark& mark) {
  int64_t i = begin;
  for (int64_t added = 0; i < end && added < most; ++i) {
    __builtin_prefetch(task.boxes + index_of(i + 8 < end ? i + 8 : i));
    const Box<T> box = task.boxes[index_of(i)];
    const T box_area = area(box);
    const bool keeps = !kept.suppress(box, box_area);
    mark(i, keeps);
    if (!keeps || !takes_part(box, box_area, task.rule)) continue;
    kept.add(box, box_area);
    ++added;
  }
  return i;
}

template <typename T, typename IndexOf, typename Mark>
void suppress(const NmsTask<T>& task, int64_t begin, int64_t end, const IndexOf& index_of, const Mark& mark) {
  KeptList<T> few{BoxLists<T>(1, task.rule)};
  const bool by_cells = task.rule.threshold >= T(0) && end - begin > 2 * kGridFrom;
  const int64_t rest = walk(task, begin, end, by_cells ? kGridFrom : end - begin, few, index_of, mark);
  if (rest == end) return;
  Grid<T> many(few.lists, kGridFrom, end - begin, task.rule);
  walk(task, rest, end, end - rest, many, index_of, mark);
}

template <typename T>
int64_t all(const NmsTask<T>& task, int64_t n, uint32_t* kept) {
  int64_t count = 0;
  const auto index_of = [order = task.order](int64_t rank) { return order[rank]; };
  suppress(task, 0, n, index_of, [&](int64_t rank, bool keeps) {  // without a branch on what nobody can foretell
    kept[count] = index_of(rank);
    count += keeps;
  });
  return count;
}

template <typename T>
void group(const NmsTask<T>& task, const uint32_t* members, int64_t begin, int64_t end, uint8_t* keep) {
  const auto index_of = [order = task.order, members](int64_t i) { return order[members[i]]; };
  suppress(task, begin, end, index_of, [=](int64_t i, bool keeps) { keep[members[i]] = keeps; });
}

}  // namespace

void order_by_score(const float* scores, int64_t n, uint32_t* order) { order_of(scores, n, order); }
void order_by_score(const double* scores, int64_t n, uint32_t* order) { order_of(scores, n, order); }

int64_t group_by_class(const int64_t* classes, const uint32_t* order, int64_t n, uint32_t* members, uint32_t* starts) {
  int64_t lowest = classes[0];
  for (int64_t i = 1; i < n; ++i) lowest = classes[i] < lowest ? classes[i] : lowest;
  Scratch<Ranked<uint64_t>> items(n);
  for (int64_t r = 0; r < n; ++r) {
    const uint64_t above_lowest = static_cast<uint64_t>(classes[order[r]]) - static_cast<uint64_t>(lowest);
    items[r] = {above_lowest, static_cast<uint32_t>(r)};
  }
  stable_sort(items.data(), n);
  int64_t groups = 0;
  for (int64_t i = 0; i < n; ++i) {
    members[i] = items[i].index;
    if (i == 0 || items[i].key != items[i - 1].key) starts[groups++] = static_cast<uint32_t>(i);
  }
  starts[groups] = static_cast<uint32_t>(n);
  return groups;
}

int64_t suppress_all(const NmsTask<float>& task, int64_t n, uint32_t* kept) { return all(task, n, kept); }
int64_t suppress_all(const NmsTask<double>& task, int64_t n, uint32_t* kept) { return all(task, n, kept); }
void suppress_group(const NmsTask<float>& task, const uint32_t* members, int64_t begin, int64_t end, uint8_t* keep) {
  group(task, members, begin, end, keep);
}
void suppress_group(const NmsTask<double>& task, const uint32_t* members, int64_t begin, int64_t end, uint8_t* keep) {
  group(task, members, begin, end, keep);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
