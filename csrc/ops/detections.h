// What the glue of multiclass_nms, soft_nms and detect shares: checks, results, and threads.
#pragma once

#include <algorithm>
#include <memory>
#include <tuple>

#include "core/detections.h"
#include "ops/cuda_route.h"
#include "ops/glue.h"

namespace ssd_ops {

using DetectionTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;  // boxes, scores, labels, counts, rows

// The options that come with scores.
inline void check_options(double score_threshold, double iou_threshold, int64_t max_detections) {
  check_finite("score_threshold", score_threshold);
  check_finite("iou_threshold", iou_threshold);
  check_at_least_one("max_detections", max_detections);
}

inline void check_scored(const Tensor& boxes, const Tensor& scores, double score_threshold, double iou_threshold,
                         int64_t max_detections) {
  check_shape("scores", scores, "[B, N, C]", scores.dim() == 3);
  check_floating("scores", scores);
  const int64_t batch = scores.size(0), count = scores.size(1), classes = scores.size(2);
  const std::string shared = std::to_string(batch) + ", " + std::to_string(count);
  check_shape("boxes", boxes, "[" + shared + ", 4] or [" + shared + ", " + std::to_string(classes) + ", 4]",
              has_shape(boxes, {batch, count, 4}) || has_shape(boxes, {batch, count, classes, 4}));
  check_floating("boxes", boxes);
  check_same_device("scores", scores, "boxes", boxes);
  check_options(score_threshold, iou_threshold, max_detections);
}

// Candidates are numbered in 32 bits.
inline void check_numbered(const char* name, int64_t rows, int64_t classes) {
  if (rows > 0 && classes > (int64_t(1) << 32) / rows - 1)
    fail(std::string(name) + " must have fewer than 4294967296 numbers an image, got " + std::to_string(rows) + " x " +
         std::to_string(classes));
}

// Unfilled results.
inline DetectionTensors new_detections(const Tensor& like, int64_t batch, int64_t most, ScalarType dtype) {
  return {empty(like, {batch, most, 4}, dtype), empty(like, {batch, most}, dtype),
          empty(like, {batch, most}, ScalarType::Long), empty(like, {batch}, ScalarType::Long),
          empty(like, {batch, most}, ScalarType::Long)};
}

inline DetectionTensors no_detections(const Tensor& like, int64_t batch, int64_t most, ScalarType dtype) {
  DetectionTensors result = new_detections(like, batch, most, dtype);
  torch::stable::zero_(std::get<0>(result));
  torch::stable::zero_(std::get<1>(result));
  torch::stable::zero_(std::get<2>(result));
  torch::stable::zero_(std::get<3>(result));
  torch::stable::zero_(std::get<4>(result));
  return result;
}

template <typename T>
DetectionsOut<T> out_of(DetectionTensors& result, int64_t most) {
  return {
      static_cast<T*>(std::get<0>(result).mutable_data_ptr()), static_cast<T*>(std::get<1>(result).mutable_data_ptr()),
      std::get<2>(result).mutable_data_ptr<int64_t>(),         std::get<3>(result).mutable_data_ptr<int64_t>(),
      std::get<4>(result).mutable_data_ptr<int64_t>(),         most};
}

template <typename T>
SelectTask<T> select_task(const Tensor& scores, double score_threshold, double suppress_above, double min_size,
                          int64_t candidates_per_class, DetectionsOut<T> out) {
  return {scores.const_data_ptr(),
          dtype_of(scores),
          scores.size(1),
          scores.size(2),
          next_above(threshold_below<T>(score_threshold)),
          candidates_per_class,
          suppression_rule<T>(suppress_above),
          threshold_above<T>(min_size),
          out,
          1,
          nullptr};
}

// Runs `finish(begin, end)` over the images; where they are fewer than the threads, `scan(begin, end)` over parts of
// them before.
template <typename T, typename Scan, typename Finish>
void over_images(SelectTask<T>& task, int64_t batch, Scan&& scan, Finish&& finish) {
  chosen_isa();
  const int64_t threads = torch::stable::get_num_threads();
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> lists;
  if (batch < threads && task.rows * task.classes > 100000) {
    task.parts = (threads + batch - 1) / batch;
    lists.reset(std::aligned_alloc(64, static_cast<size_t>(batch * task.parts * part_bytes())));
    if (!lists) fail("out of memory");
    task.lists = static_cast<char*>(lists.get());
    torch::stable::parallel_for(0, batch * task.parts, 1, scan);
  }
  torch::stable::parallel_for(0, batch, 1, finish);
}

}  // namespace ssd_ops
