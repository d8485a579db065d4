#include "cpu/select/multiclass_nms.h"

#include "cpu/common/rows.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

template <typename In>
class Scores {
  using T = compute_t<In>;

 public:
  explicit Scores(const MulticlassTask<T>& task) : task_(task), row_(task.select.num_classes) {}

  void scan(int64_t image, int64_t begin, int64_t end, CandidateBuffer<T>& buffer) {
    const SelectTask<T>& task = task_.select;
    const In* scores = static_cast<const In*>(task.scores);
    for (int64_t box = begin; box < end; ++box) {
      const T* score = widened_row(scores, image * task.num_boxes + box, task.num_classes, row_.data());
      if (!any_above<true>(score, task.num_classes, buffer.min_score)) continue;
      for (int64_t c = 1; c < task.num_classes; ++c)
        if (score[c] >= buffer.min_score) buffer.add(score[c], static_cast<uint32_t>(c * task.num_boxes + box));
    }
  }

  Box<T> box(int64_t image, int64_t box, int64_t label) const {
    const int64_t index = image * task_.select.num_boxes + box;
    return task_.boxes[task_.boxes_by_class ? index * task_.select.num_classes + label : index];
  }

 private:
  const MulticlassTask<T>& task_;
  Scratch<T> row_;
};

}  // namespace

void scan_scores(const MulticlassTask<float>& task, int64_t begin, int64_t end) { scan_task<Scores>(task, begin, end); }
void scan_scores(const MulticlassTask<double>& task, int64_t begin, int64_t end) {
  scan_task<Scores>(task, begin, end);
}
void multiclass_nms(const MulticlassTask<float>& task, int64_t begin, int64_t end) {
  select_images<Scores>(task, begin, end);
}
void multiclass_nms(const MulticlassTask<double>& task, int64_t begin, int64_t end) {
  select_images<Scores>(task, begin, end);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
