// What multiclass_nms, soft_nms and detect share: validation, allocation of the results, and threads.
#pragma once

#include <cstdlib>
#include <memory>
#include <tuple>

#include "core/detections.h"
#include "cpu/select/segments.h"
#include "ops/glue.h"

namespace ssd_ops {

using DetectionTensors =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // boxes, scores, labels, counts, box_indices

// Validates the options that all three have.
inline void check_options(double score_threshold, double iou_threshold, int64_t max_detections) {
  check_finite("score_threshold", score_threshold);
  check_finite("iou_threshold", iou_threshold);
  check_at_least_one("max_detections", max_detections);
}

inline void check_scored(const Tensor& boxes, const Tensor& scores, double score_threshold, double iou_threshold,
                         int64_t max_detections) {
  check_shape("scores", scores, "[B, N, C]", scores.dim() == 3);
  check_floating("scores", scores);
  const int64_t num_images = scores.size(0), num_boxes = scores.size(1), num_classes = scores.size(2);
  const auto shapes = [&] {
    const std::string shared = std::to_string(num_images) + ", " + std::to_string(num_boxes);
    return "[" + shared + ", 4] or [" + shared + ", " + std::to_string(num_classes) + ", 4]";
  };
  check_shape(
      "boxes", boxes, shapes,
      has_shape(boxes, {num_images, num_boxes, 4}) || has_shape(boxes, {num_images, num_boxes, num_classes, 4}));
  check_floating("boxes", boxes);
  check_same_device("scores", scores, "boxes", boxes);
  check_options(score_threshold, iou_threshold, max_detections);
}

// The indices of candidates have 32 bits.
inline void check_candidate_count(const char* name, int64_t num_boxes, int64_t num_classes) {
  if (num_boxes > 0 && num_classes > (int64_t(1) << 32) / num_boxes - 1)
    fail(std::string(name) + " must have fewer than 4294967296 numbers an image, got " + std::to_string(num_boxes) +
         " x " + std::to_string(num_classes));
}

// Uninitialized results.
inline DetectionTensors new_detections(const Tensor& like, int64_t num_images, int64_t max_detections,
                                       ScalarType dtype) {
  return {empty(like, {num_images, max_detections, 4}, dtype), empty(like, {num_images, max_detections}, dtype),
          empty(like, {num_images, max_detections}, ScalarType::Long), empty(like, {num_images}, ScalarType::Long),
          empty(like, {num_images, max_detections}, ScalarType::Long)};
}

inline DetectionTensors no_detections(const Tensor& like, int64_t num_images, int64_t max_detections,
                                      ScalarType dtype) {
  DetectionTensors result = new_detections(like, num_images, max_detections, dtype);
  std::apply([](auto&... tensors) { (torch::stable::zero_(tensors), ...); }, result);
  return result;
}

template <typename T>
DetectionsOut<T> detections_out(const DetectionTensors& result) {
  const auto& [boxes, scores, labels, counts, box_indices] = result;
  return {.boxes = data<T>(boxes),
          .scores = data<T>(scores),
          .labels = data<int64_t>(labels),
          .counts = data<int64_t>(counts),
          .box_indices = data<int64_t>(box_indices),
          .max_detections = scores.size(1)};
}

// The options of the selection that multiclass_nms and detect share.
struct SelectOptions {
  double score_threshold, suppress_above, min_size;
  int64_t candidates_per_class;
};

// Scores or, for detect, logits; `data` is null there.
struct ScoreRows {
  const void* data;
  Dtype dtype;
  int64_t num_boxes, num_classes;
};

inline ScoreRows score_rows(const Tensor& scores) {
  return {scores.const_data_ptr(), dtype_of(scores), scores.size(1), scores.size(2)};
}

template <typename T>
SelectParams<T> select_params(const ScoreRows& scores, const SelectOptions& options, const DetectionTensors& result) {
  return {.scores = scores.data,
          .dtype = scores.dtype,
          .num_boxes = scores.num_boxes,
          .num_classes = scores.num_classes,
          .score_threshold = next_above(round_threshold_down<T>(options.score_threshold)),
          .candidates_per_class = options.candidates_per_class,
          .thresholds = suppression_thresholds<T>(options.suppress_above),
          .min_size = round_threshold_up<T>(options.min_size),
          .out = detections_out<T>(result)};
}

// Runs `finish(begin, end)` over the images of a CPU kernel (MulticlassParams, DetectParams). If there are fewer images
// than threads, runs `scan(begin, end)` over segments of them before.
template <typename Params, typename Scan, typename Finish>
void over_images(Params& params, int64_t num_images, Scan&& scan, Finish&& finish) {
  chosen_isa();  // may throw, which is not allowed within a parallel region
  const int64_t threads = torch::stable::get_num_threads();
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> buffers;
  if (num_images < threads && params.select.num_boxes * params.select.num_classes > 100000) {
    const int64_t count = ceil_div(threads, num_images);
    buffers.reset(std::aligned_alloc(64, static_cast<size_t>(num_images * count * cpu::segment_bytes())));
    if (!buffers) fail("out of memory");
    params.segments = {.count = count, .buffers = static_cast<char*>(buffers.get())};
    torch::stable::parallel_for(0, num_images * count, 1, scan);
  }
  torch::stable::parallel_for(0, num_images, 1, finish);
}

}  // namespace ssd_ops
