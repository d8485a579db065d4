#include "cpu/select/soft_nms.h"

#include "cpu/common/rows.h"
#include "cpu/common/vec_math.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// The living boxes of one class, by row. A score of -inf is dead.
template <typename T>
struct Living {
  int64_t count = 0;
  Scratch<T> x1, y1, x2, y2, areas, scores;
  Scratch<uint32_t> rows;

  void add(const Box<T>& box, T score, uint32_t row) {
    if (count == scores.size()) {
      const int64_t room = count == 0 ? 64 : 2 * count;
      for (Scratch<T>* array : {&x1, &y1, &x2, &y2, &areas, &scores}) array->grow(room);
      rows.grow(room);
    }
    set(count++, box, area(box), score, row);
  }

  void set(int64_t i, const Box<T>& box, T box_area, T score, uint32_t row) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
    areas[i] = box_area;
    scores[i] = score;
    rows[i] = row;
  }

  Box<T> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  void forget_dead() {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i)
      if (scores[i] > -std::numeric_limits<T>::infinity()) set(kept++, box(i), areas[i], scores[i], rows[i]);
    count = kept;
  }

  // The first of the highest scores, or -1.
  int64_t best() const {
    constexpr int kLanes = 16;
    T highest[kLanes];
    for (T& lane : highest) lane = -std::numeric_limits<T>::infinity();
    const T* __restrict s = scores.data();
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      for (int l = 0; l < kLanes; ++l) highest[l] = greater(s[i + l], highest[l]);
    for (; i < count; ++i) highest[0] = greater(s[i], highest[0]);
    for (int l = 1; l < kLanes; ++l) highest[0] = greater(highest[l], highest[0]);
    if (highest[0] == -std::numeric_limits<T>::infinity()) return -1;
    for (i = 0; s[i] != highest[0];) ++i;
    return i;
  }
};

// Lowers the scores of all by their overlap with box number `chosen`; returns how many live on.
template <bool gaussian, typename T>
int64_t lower_scores(Living<T>& living, int64_t chosen, const SoftTask<T>& task) {
  const Box<T> best = living.box(chosen);
  const T best_area = living.areas[chosen], floor = task.floor;
  const bool zero_dies = above_zero(floor);  // said aloud for a CPU that takes a subnormal floor for 0
  const T* __restrict x1 = living.x1.data();
  const T* __restrict y1 = living.y1.data();
  const T* __restrict x2 = living.x2.data();
  const T* __restrict y2 = living.y2.data();
  const T* __restrict areas = living.areas.data();
  T* __restrict scores = living.scores.data();
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Flag alive = 0;
  for (int64_t i = 0; i < living.count; ++i) {
    const T iou = suppression_iou(best, Box<T>{x1[i], y1[i], x2[i], y2[i]}, best_area, areas[i]);
    const T overlap = iou != iou ? T(0) : iou;
    T weight;
    if constexpr (gaussian) {
      weight = vec_exp(-(overlap * overlap) / task.sigma);
    } else {
      weight = overlap > task.iou_threshold ? T(1) - overlap : T(1);
    }
    const T score = scores[i] * weight;
    const bool lives = (score >= floor) & !((score == T(0)) & zero_dies);
    scores[i] = lives ? score : -std::numeric_limits<T>::infinity();
    alive += lives ? 1 : 0;
  }
  return alive;
}

template <typename T>
void one_class(Living<T>& living, const SoftTask<T>& task, int64_t slot) {
  int64_t taken = 0;
  while (taken < task.room) {
    const int64_t chosen = living.best();
    if (chosen < 0) break;
    task.taken_scores[slot * task.room + taken] = living.scores[chosen];
    task.taken_rows[slot * task.room + taken++] = living.rows[chosen];
    living.scores[chosen] = -std::numeric_limits<T>::infinity();
    const int64_t alive =
        task.gaussian ? lower_scores<true>(living, chosen, task) : lower_scores<false>(living, chosen, task);
    if (2 * alive < living.count) living.forget_dead();
  }
  task.taken[slot] = taken;
}

template <typename In>
void class_group(const SoftTask<compute_t<In>>& task, int64_t image, int64_t first, int64_t last) {
  using T = compute_t<In>;
  Living<T> living[kSoftClasses];
  const In* scores = static_cast<const In*>(task.scores);
  for (int64_t row = 0; row < task.rows; ++row) {
    const int64_t place = image * task.rows + row;
    for (int64_t c = first; c < last; ++c) {
      const T score = widen(scores[place * task.classes + c]);
      if (!(score >= task.floor) || (score == T(0) && above_zero(task.floor))) continue;
      const Box<T>& box = task.boxes[task.boxes_by_class ? place * task.classes + c : place];
      living[c - first].add(box, score, static_cast<uint32_t>(row));
    }
  }
  for (int64_t c = first; c < last; ++c) one_class(living[c - first], task, image * task.classes + c);
}

template <typename T>
void class_groups(const SoftTask<T>& task, int64_t begin, int64_t end) {
  const int64_t groups = (task.classes + kSoftClasses - 1) / kSoftClasses;
  with_dtype<T>(task.dtype, [&](auto type) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * kSoftClasses, last = first + kSoftClasses;
      class_group<decltype(type)>(task, i / groups, first == 0 ? 1 : first, last < task.classes ? last : task.classes);
    }
  });
}

// Order: score, then class, then order of taking.
template <typename T>
void merge(const SoftTask<T>& task, int64_t image) {
  Scratch<Candidate<T>> items(task.classes * task.room);
  int64_t count = 0;
  for (int64_t c = 1; c < task.classes; ++c) {
    const int64_t slot = image * task.classes + c;
    for (int64_t k = 0; k < task.taken[slot]; ++k) {
      items[count++] = {falling_key(task.taken_scores[slot * task.room + k]), static_cast<uint32_t>(c * task.room + k)};
    }
  }
  const int64_t most = task.out.most, found = count < most ? count : most;
  if (found < count) std::nth_element(items.data(), items.data() + found, items.data() + count);
  std::sort(items.data(), items.data() + found);
  for (int64_t d = 0; d < most; ++d) {
    const int64_t place = image * most + d;
    Box<T> box{};
    T score(0);
    int64_t label = 0, row = 0;
    if (d < found) {
      label = items[d].index / task.room;
      const int64_t at = image * task.classes * task.room + items[d].index;
      row = task.taken_rows[at];
      score = task.taken_scores[at];
      const int64_t box_place = image * task.rows + row;
      box = task.boxes[task.boxes_by_class ? box_place * task.classes + label : box_place];
    }
    const T values[4] = {box.x1, box.y1, box.x2, box.y2};
    std::memcpy(task.out.boxes + 4 * place, values, sizeof(values));
    task.out.scores[place] = score;
    task.out.labels[place] = label;
    task.out.rows[place] = row;
  }
  task.out.counts[image] = found;
}

}  // namespace

void soft_nms_classes(const SoftTask<float>& task, int64_t begin, int64_t end) { class_groups(task, begin, end); }
void soft_nms_classes(const SoftTask<double>& task, int64_t begin, int64_t end) { class_groups(task, begin, end); }
void soft_nms_merge(const SoftTask<float>& task, int64_t begin, int64_t end) {
  for (int64_t image = begin; image < end; ++image) merge(task, image);
}
void soft_nms_merge(const SoftTask<double>& task, int64_t begin, int64_t end) {
  for (int64_t image = begin; image < end; ++image) merge(task, image);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
