#include "cpu/nms.h"

#include <optional>

#include "cpu/grid.h"
#include "cpu/order.h"
#include "cpu/suppress.h"

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

template <typename T>
void group(const NmsTask<T>& task, int64_t begin, int64_t end) {
  BoxLists<T> kept(1);
  std::optional<Grid<T>> grid;
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) {
    const uint32_t rank = task.members == nullptr ? static_cast<uint32_t>(i) : task.members[i];
    const int64_t soon = i + 8 < end ? i + 8 : i;
    __builtin_prefetch(task.boxes + task.order[task.members == nullptr ? soon : task.members[soon]]);
    const Box<T> box = task.boxes[task.order[rank]];
    const T box_area = area(box);
    task.keep[rank] = 1;
    if (!takes_part(box, box_area, task.rule)) continue;
    if (grid ? grid->suppress(box, box_area, task.rule) : kept.suppress(0, box, box_area, task.rule)) {
      task.keep[rank] = 0;
      continue;
    }
    kept.add(0, box, box_area);
    if (grid) grid->add(box, box_area);
    if (++count >= kGridFrom && !grid && end - i > count && task.rule.threshold >= T(0))
      grid.emplace(kept, count, end - begin, task.rule);
  }
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

void suppress_group(const NmsTask<float>& task, int64_t begin, int64_t end) { group(task, begin, end); }
void suppress_group(const NmsTask<double>& task, int64_t begin, int64_t end) { group(task, begin, end); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
