#include "cpu/select/multiclass_nms.h"

#include "cpu/common/rows.h"
#include "cpu/select/select.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

template <typename In>
class Scores {
  using T = compute_t<In>;

 public:
  explicit Scores(const MulticlassParams<T>& params) : params_(params), row_(params.select.num_classes) {}

  void scan(int64_t image, int64_t begin, int64_t end, CandidateBuffer<T>& buffer) {
    const SelectParams<T>& params = params_.select;
    const In* scores = static_cast<const In*>(params.scores);
    for (int64_t box = begin; box < end; ++box) {
      const T* score = widened_row(scores, image * params.num_boxes + box, params.num_classes, row_.data());
      if (!any_above<true>(score, params.num_classes, buffer.min_score)) continue;
      for (int64_t c = 1; c < params.num_classes; ++c)
        if (score[c] >= buffer.min_score) buffer.add(score[c], static_cast<uint32_t>(c * params.num_boxes + box));
    }
  }

  Box<T> box(int64_t image, int64_t box, int64_t label) const {
    const int64_t index = image * params_.select.num_boxes + box;
    return params_.boxes[params_.boxes_by_class ? index * params_.select.num_classes + label : index];
  }

 private:
  const MulticlassParams<T>& params_;
  Scratch<T> row_;
};

}  // namespace

void scan_scores(const MulticlassParams<float>& params, int64_t begin, int64_t end) {
  scan_as_dtype<Scores>(params, begin, end);
}
void scan_scores(const MulticlassParams<double>& params, int64_t begin, int64_t end) {
  scan_as_dtype<Scores>(params, begin, end);
}
void multiclass_nms(const MulticlassParams<float>& params, int64_t begin, int64_t end) {
  select_images<Scores>(params, begin, end);
}
void multiclass_nms(const MulticlassParams<double>& params, int64_t begin, int64_t end) {
  select_images<Scores>(params, begin, end);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
