#include "cpu/select/soft_nms.h"

#include "cpu/common/rows.h"
#include "cpu/common/vec_math.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// The active boxes of one class, by index. A score of -inf marks a box that is no longer active.
template <typename T>
struct ActiveBoxes {
  int64_t count = 0;
  Scratch<T> x1, y1, x2, y2, areas, scores;
  Scratch<uint32_t> rows;

  void add(const Box<T>& box, T score, uint32_t row) {
    if (count == scores.size()) {
      const int64_t capacity = count == 0 ? 64 : 2 * count;
      for (Scratch<T>* array : {&x1, &y1, &x2, &y2, &areas, &scores}) array->grow(capacity);
      rows.grow(capacity);
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

  void compact() {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i)
      if (scores[i] > -std::numeric_limits<T>::infinity()) set(kept++, box(i), areas[i], scores[i], rows[i]);
    count = kept;
  }

  // The first of the boxes with the maximum score, or -1.
  int64_t best() const {
    constexpr int kLanes = 16;
    T maxima[kLanes];
    for (T& lane : maxima) lane = -std::numeric_limits<T>::infinity();
    const T* __restrict s = scores.data();
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes)
      for (int l = 0; l < kLanes; ++l) maxima[l] = greater(s[i + l], maxima[l]);
    for (; i < count; ++i) maxima[0] = greater(s[i], maxima[0]);
    for (int l = 1; l < kLanes; ++l) maxima[0] = greater(maxima[l], maxima[0]);
    if (maxima[0] == -std::numeric_limits<T>::infinity()) return -1;
    for (i = 0; s[i] != maxima[0];) ++i;
    return i;
  }
};

// Decays the scores by the overlap with box number `chosen`; returns the number of boxes that stay active.
template <bool gaussian, typename T>
int64_t decay_scores(ActiveBoxes<T>& active, int64_t chosen, const SoftNmsTask<T>& task) {
  const Box<T> best = active.box(chosen);
  const T best_area = active.areas[chosen], min_score = task.score_threshold;
  const bool excludes_zero = above_zero(min_score);  // explicit, for a CPU that treats a subnormal threshold as 0
  const T* __restrict x1 = active.x1.data();
  const T* __restrict y1 = active.y1.data();
  const T* __restrict x2 = active.x2.data();
  const T* __restrict y2 = active.y2.data();
  const T* __restrict areas = active.areas.data();
  T* __restrict scores = active.scores.data();
  using Flag = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Flag num_active = 0;
  for (int64_t i = 0; i < active.count; ++i) {
    const T iou = suppression_iou(best, Box<T>{x1[i], y1[i], x2[i], y2[i]}, best_area, areas[i]);
    const T overlap = iou != iou ? T(0) : iou;
    T weight;
    if constexpr (gaussian) {
      weight = vec_exp(-(overlap * overlap) / task.sigma);
    } else {
      weight = overlap > task.iou_threshold ? T(1) - overlap : T(1);
    }
    const T score = scores[i] * weight;
    const bool stays = (score >= min_score) & !((score == T(0)) & excludes_zero);
    scores[i] = stays ? score : -std::numeric_limits<T>::infinity();
    num_active += stays ? 1 : 0;
  }
  return num_active;
}

template <typename T>
void select_in_class(ActiveBoxes<T>& active, const SoftNmsTask<T>& task, int64_t image_class) {
  int64_t count = 0;
  while (count < task.class_capacity) {
    const int64_t chosen = active.best();
    if (chosen < 0) break;
    task.class_scores[image_class * task.class_capacity + count] = active.scores[chosen];
    task.class_rows[image_class * task.class_capacity + count++] = active.rows[chosen];
    active.scores[chosen] = -std::numeric_limits<T>::infinity();
    const int64_t num_active =
        task.gaussian ? decay_scores<true>(active, chosen, task) : decay_scores<false>(active, chosen, task);
    if (2 * num_active < active.count) active.compact();
  }
  task.class_counts[image_class] = count;
}

template <typename In>
void class_group(const SoftNmsTask<compute_t<In>>& task, int64_t image, int64_t first, int64_t last) {
  using T = compute_t<In>;
  ActiveBoxes<T> active[kClassGroup];
  const In* scores = static_cast<const In*>(task.scores);
  for (int64_t box = 0; box < task.num_boxes; ++box) {
    const int64_t index = image * task.num_boxes + box;
    for (int64_t c = first; c < last; ++c) {
      const T score = widen(scores[index * task.num_classes + c]);
      if (!(score >= task.score_threshold) || (score == T(0) && above_zero(task.score_threshold))) continue;
      active[c - first].add(task.boxes[task.boxes_by_class ? index * task.num_classes + c : index], score,
                            static_cast<uint32_t>(box));
    }
  }
  for (int64_t c = first; c < last; ++c) select_in_class(active[c - first], task, image * task.num_classes + c);
}

template <typename T>
void class_groups(const SoftNmsTask<T>& task, int64_t begin, int64_t end) {
  const int64_t groups = (task.num_classes + kClassGroup - 1) / kClassGroup;
  with_dtype<T>(task.dtype, [&](auto type) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * kClassGroup, last = first + kClassGroup;
      class_group<decltype(type)>(task, i / groups, first == 0 ? 1 : first,
                                  last < task.num_classes ? last : task.num_classes);
    }
  });
}

// In order of descending score, then class, then order of selection within the class.
template <typename T>
void merge(const SoftNmsTask<T>& task, int64_t image) {
  Scratch<Candidate<T>> items(task.num_classes * task.class_capacity);
  int64_t count = 0;
  for (int64_t c = 1; c < task.num_classes; ++c) {
    const int64_t image_class = image * task.num_classes + c;
    for (int64_t k = 0; k < task.class_counts[image_class]; ++k) {
      items[count++] = {descending_key_nan_first(task.class_scores[image_class * task.class_capacity + k]),
                        static_cast<uint32_t>(c * task.class_capacity + k)};
    }
  }
  const int64_t max_detections = task.out.max_detections, found = count < max_detections ? count : max_detections;
  if (found < count) std::nth_element(items.data(), items.data() + found, items.data() + count);
  std::sort(items.data(), items.data() + found);
  for (int64_t d = 0; d < max_detections; ++d) {
    const int64_t out = image * max_detections + d;
    Box<T> box{};
    T score(0);
    int64_t label = 0, row = 0;
    if (d < found) {
      label = items[d].index / task.class_capacity;
      const int64_t selected = image * task.num_classes * task.class_capacity + items[d].index;
      row = task.class_rows[selected];
      score = task.class_scores[selected];
      const int64_t index = image * task.num_boxes + row;
      box = task.boxes[task.boxes_by_class ? index * task.num_classes + label : index];
    }
    store_box(box, task.out.boxes, out);
    task.out.scores[out] = score;
    task.out.labels[out] = label;
    task.out.rows[out] = row;
  }
  task.out.counts[image] = found;
}

}  // namespace

void soft_nms_classes(const SoftNmsTask<float>& task, int64_t begin, int64_t end) { class_groups(task, begin, end); }
void soft_nms_classes(const SoftNmsTask<double>& task, int64_t begin, int64_t end) { class_groups(task, begin, end); }
void soft_nms_merge(const SoftNmsTask<float>& task, int64_t begin, int64_t end) {
  for (int64_t image = begin; image < end; ++image) merge(task, image);
}
void soft_nms_merge(const SoftNmsTask<double>& task, int64_t begin, int64_t end) {
  for (int64_t image = begin; image < end; ++image) merge(task, image);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
