#include "cpu/select/multiclass_nms.h"

#include "cpu/common/rows.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

template <typename In>
class Scores {
  using T = compute_t<In>;

 public:
  explicit Scores(const MulticlassTask<T>& task) : task_(task), buffer_(task.select.classes) {}

  void scan(int64_t image, int64_t begin, int64_t end, Page<T>& page) {
    const SelectTask<T>& task = task_.select;
    const In* scores = static_cast<const In*>(task.scores);
    for (int64_t row = begin; row < end; ++row) {
      const T* score = widened_row(scores, image * task.rows + row, task.classes, buffer_.data());
      if (!any_above<true>(score, task.classes, page.floor)) continue;
      for (int64_t c = 1; c < task.classes; ++c)
        if (score[c] >= page.floor) page.add(score[c], static_cast<uint32_t>(c * task.rows + row));
    }
  }

  Box<T> box(int64_t image, int64_t row, int64_t label) const {
    const int64_t place = image * task_.select.rows + row;
    return task_.boxes[task_.boxes_by_class ? place * task_.select.classes + label : place];
  }

 private:
  const MulticlassTask<T>& task_;
  Scratch<T> buffer_;
};

template <typename T>
void scan(const MulticlassTask<T>& task, int64_t begin, int64_t end) {
  with_dtype<T>(task.select.dtype, [&](auto type) {
    Scores<decltype(type)> source(task);
    scan_parts(task.select, source, begin, end);
  });
}

template <typename T>
void images(const MulticlassTask<T>& task, int64_t begin, int64_t end) {
  with_dtype<T>(task.select.dtype, [&](auto type) {
    Scores<decltype(type)> source(task);
    Selection<T> selection(task.select);
    for (int64_t image = begin; image < end; ++image) selection.image(source, image);
  });
}

}  // namespace

void scan_scores(const MulticlassTask<float>& task, int64_t begin, int64_t end) { scan(task, begin, end); }
void scan_scores(const MulticlassTask<double>& task, int64_t begin, int64_t end) { scan(task, begin, end); }
void multiclass_nms(const MulticlassTask<float>& task, int64_t begin, int64_t end) { images(task, begin, end); }
void multiclass_nms(const MulticlassTask<double>& task, int64_t begin, int64_t end) { images(task, begin, end); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
