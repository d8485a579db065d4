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
  Scratch<uint32_t> box_indices;

  void add(const Box<T>& box, T score, uint32_t box_index) {
    if (count == scores.size()) {
      const int64_t capacity = count == 0 ? 64 : 2 * count;
      for (Scratch<T>* array : {&x1, &y1, &x2, &y2, &areas, &scores}) array->grow(capacity);
      box_indices.grow(capacity);
    }
    set(count++, box, area(box), score, box_index);
  }

  void set(int64_t i, const Box<T>& box, T box_area, T score, uint32_t box_index) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
    areas[i] = box_area;
    scores[i] = score;
    box_indices[i] = box_index;
  }

  Box<T> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  void compact() {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; ++i)
      if (scores[i] > -std::numeric_limits<T>::infinity()) set(kept++, box(i), areas[i], scores[i], box_indices[i]);
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

// Decays the scores by the overlap with box number `selected`; returns the number of boxes that stay active.
template <bool gaussian, typename T>
int64_t decay_scores(ActiveBoxes<T>& active, int64_t selected, const SoftNmsParams<T>& params) {
  const Box<T> best = active.box(selected);
  const T best_area = active.areas[selected], min_score = params.score_threshold;
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
      weight = vec_exp(-(overlap * overlap) / params.sigma);
    } else {
      weight = overlap > params.iou_threshold ? T(1) - overlap : T(1);
    }
    const T score = scores[i] * weight;
    const bool stays = (score >= min_score) & !((score == T(0)) & excludes_zero);
    scores[i] = stays ? score : -std::numeric_limits<T>::infinity();
    num_active += stays ? 1 : 0;
  }
  return num_active;
}

template <typename T>
void select_in_class(ActiveBoxes<T>& active, const SoftNmsParams<T>& params, int64_t image_class) {
  int64_t count = 0;
  while (count < params.class_capacity) {
    const int64_t selected = active.best();
    if (selected < 0) break;
    params.class_scores[image_class * params.class_capacity + count] = active.scores[selected];
    params.class_box_indices[image_class * params.class_capacity + count++] = active.box_indices[selected];
    active.scores[selected] = -std::numeric_limits<T>::infinity();
    const int64_t num_active =
        params.gaussian ? decay_scores<true>(active, selected, params) : decay_scores<false>(active, selected, params);
    if (2 * num_active < active.count) active.compact();
  }
  params.class_counts[image_class] = count;
}

template <typename In>
void class_group(const SoftNmsParams<compute_t<In>>& params, int64_t image, int64_t first, int64_t last) {
  using T = compute_t<In>;
  ActiveBoxes<T> active[kClassGroup];
  const In* scores = static_cast<const In*>(params.scores);
  for (int64_t box = 0; box < params.num_boxes; ++box) {
    const int64_t index = image * params.num_boxes + box;
    for (int64_t c = first; c < last; ++c) {
      const T score = widen(scores[index * params.num_classes + c]);
      if (!(score >= params.score_threshold) || (score == T(0) && above_zero(params.score_threshold))) continue;
      active[c - first].add(params.boxes[params.boxes_by_class ? index * params.num_classes + c : index], score,
                            static_cast<uint32_t>(box));
    }
  }
  for (int64_t c = first; c < last; ++c) select_in_class(active[c - first], params, image * params.num_classes + c);
}

template <typename T>
void class_groups(const SoftNmsParams<T>& params, int64_t begin, int64_t end) {
  const int64_t groups = (params.num_classes + kClassGroup - 1) / kClassGroup;
  with_dtype<T>(params.dtype, [&](auto type) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % groups * kClassGroup, last = first + kClassGroup;
      class_group<decltype(type)>(params, i / groups, first == 0 ? 1 : first,
                                  last < params.num_classes ? last : params.num_classes);
    }
  });
}

// In order of descending score, then class, then order of selection within the class.
template <typename T>
void merge(const SoftNmsParams<T>& params, int64_t image) {
  Scratch<Candidate<T>> items(params.num_classes * params.class_capacity);
  int64_t count = 0;
  for (int64_t c = 1; c < params.num_classes; ++c) {
    const int64_t image_class = image * params.num_classes + c;
    for (int64_t k = 0; k < params.class_counts[image_class]; ++k) {
      items[count++] = {descending_key_nan_first(params.class_scores[image_class * params.class_capacity + k]),
                        static_cast<uint32_t>(c * params.class_capacity + k)};
    }
  }
  const int64_t max_detections = params.out.max_detections, found = count < max_detections ? count : max_detections;
  if (found < count) std::nth_element(items.data(), items.data() + found, items.data() + count);
  std::sort(items.data(), items.data() + found);
  for (int64_t d = 0; d < max_detections; ++d) {
    const int64_t out = image * max_detections + d;
    Box<T> box{};
    T score(0);
    int64_t label = 0, box_index = 0;
    if (d < found) {
      label = items[d].index / params.class_capacity;
      const int64_t selected = image * params.num_classes * params.class_capacity + items[d].index;
      box_index = params.class_box_indices[selected];
      score = params.class_scores[selected];
      const int64_t index = image * params.num_boxes + box_index;
      box = params.boxes[params.boxes_by_class ? index * params.num_classes + label : index];
    }
    store_box(box, params.out.boxes, out);
    params.out.scores[out] = score;
    params.out.labels[out] = label;
    params.out.box_indices[out] = box_index;
  }
  params.out.counts[image] = found;
}

}  // namespace

void soft_nms_classes(const SoftNmsParams<float>& params, int64_t begin, int64_t end) {
  class_groups(params, begin, end);
}
void soft_nms_classes(const SoftNmsParams<double>& params, int64_t begin, int64_t end) {
  class_groups(params, begin, end);
}
void soft_nms_merge(const SoftNmsParams<float>& params, int64_t begin, int64_t end) {
  for (int64_t image = begin; image < end; ++image) merge(params, image);
}
void soft_nms_merge(const SoftNmsParams<double>& params, int64_t begin, int64_t end) {
  for (int64_t image = begin; image < end; ++image) merge(params, image);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
