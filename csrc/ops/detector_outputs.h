// The outputs of a detector, which multibox_loss and detect take as one tensor [B, P, columns] or as one for each
// feature level, [B, A * columns, H, W]; core/levels.h has their rows.
#pragma once

#include <torch/headeronly/core/MemoryFormat.h>

#include <vector>

#include "core/levels.h"
#include "ops/glue.h"

namespace ssd_ops {

struct DetectorOutputs {
  std::vector<Tensor> loc, logits;  // rows of 4 and of C
  Levels levels;
  int64_t num_images, num_classes;

  int64_t num_priors() const { return levels.num_priors(); }
  ScalarType loc_type() const { return loc[0].scalar_type(); }
  ScalarType logits_type() const { return logits[0].scalar_type(); }
};

inline void check_has_classes(const char* name, const Tensor& logits, int64_t num_classes) {
  if (num_classes < 1)
    fail(std::string(name) + " must have at least 1 class, the background, got shape " + shape_of(logits));
}

inline DetectorOutputs detector_outputs(const Tensor& loc, const Tensor& logits) {
  check_boxes("loc", loc, "[B, P, 4]", 3);
  const int64_t num_images = loc.size(0), num_priors = loc.size(1);
  check_shape(
      "logits", logits, [&] { return "[" + std::to_string(num_images) + ", " + std::to_string(num_priors) + ", C]"; },
      logits.dim() == 3 && logits.size(0) == num_images && logits.size(1) == num_priors);
  check_floating("logits", logits);
  check_has_classes("logits", logits, logits.size(2));
  check_same_device("logits", logits, "loc", loc);
  return {{loc}, {logits}, one_level(num_priors), num_images, logits.size(2)};
}

// Tensors of one kind have the dtype and the device of the first.
inline void check_level(const char* kind, size_t level, const Tensor& t, const std::string& expected, bool has_shape,
                        const std::vector<Tensor>& loc, const Tensor& first) {
  const std::string name = std::string(kind) + "[" + std::to_string(level) + "]";
  check_shape(name.c_str(), t, expected, has_shape);
  check_floating(name.c_str(), t);
  check_same_dtype(name.c_str(), t, (std::string(kind) + "[0]").c_str(), first);
  check_same_device(name.c_str(), t, "loc[0]", loc[0]);
}

inline DetectorOutputs detector_outputs(const std::vector<Tensor>& loc, const std::vector<Tensor>& logits) {
  if (loc.empty()) fail("loc must be a list of at least 1 tensor, got a list of 0");
  if (loc.size() > static_cast<size_t>(kMaxLevels))
    fail("loc must be a list of at most " + std::to_string(kMaxLevels) + " tensors, got a list of " +
         std::to_string(loc.size()));
  if (logits.size() != loc.size())
    fail("logits must be a list of " + std::to_string(loc.size()) + " tensors like loc, got a list of " +
         std::to_string(logits.size()));
  DetectorOutputs outputs{loc, logits, {static_cast<int>(loc.size()), {}}, 0, 0};
  for (size_t k = 0; k < loc.size(); ++k) {
    const Tensor &deltas = loc[k], &scores = logits[k];
    const bool first = k == 0;
    if (first) outputs.num_images = deltas.dim() > 0 ? deltas.size(0) : 0;
    check_level(
        "loc", k, deltas, "[" + (first ? "B" : std::to_string(outputs.num_images)) + ", A * 4, H, W]",
        deltas.dim() == 4 && deltas.size(0) == outputs.num_images && deltas.size(1) > 0 && deltas.size(1) % 4 == 0, loc,
        loc[0]);
    const int64_t per_cell = deltas.size(1) / 4, height = deltas.size(2), width = deltas.size(3);
    const bool has_size = scores.dim() == 4 && scores.size(0) == outputs.num_images && scores.size(2) == height &&
                          scores.size(3) == width && scores.size(1) % per_cell == 0;
    if (first && has_size) outputs.num_classes = scores.size(1) / per_cell;
    const std::string columns = first ? "C" : std::to_string(outputs.num_classes);
    check_level("logits", k, scores,
                "[" + std::to_string(outputs.num_images) + ", " + std::to_string(per_cell) + " * " + columns + ", " +
                    std::to_string(height) + ", " + std::to_string(width) + "]",
                has_size && scores.size(1) == per_cell * outputs.num_classes, loc, logits[0]);
    check_has_classes("logits[0]", scores, outputs.num_classes);
    outputs.levels.first_prior[k + 1] = outputs.levels.first_prior[k] + per_cell * height * width;
  }
  return outputs;
}

// Whether a level's output [B, K, H, W] is [B, H, W, K] in memory; the stride of a dimension of size 1 does not matter.
inline bool is_channels_last(const Tensor& t) {
  int64_t expected = 1;
  for (const int64_t dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

// The tensors in `dtype`, with their rows dense and aligned as dense() aligns; those that are not are copied.
inline std::vector<Tensor> dense_rows(const std::vector<Tensor>& tensors, ScalarType dtype) {
  std::vector<Tensor> result;
  result.reserve(tensors.size());
  for (const Tensor& t : tensors) {
    if (t.dim() == 3) {
      result.push_back(dense(t, dtype));
      continue;
    }
    Tensor rows = as_dtype(t, dtype);
    if (!is_channels_last(rows)) rows = torch::stable::contiguous(rows, torch::headeronly::MemoryFormat::ChannelsLast);
    if (reinterpret_cast<uintptr_t>(rows.const_data_ptr()) % 32 != 0) rows = torch::stable::clone(rows);
    result.push_back(rows);
  }
  return result;
}

template <typename T>
LevelPointers<const T> const_rows(const std::vector<Tensor>& tensors) {
  LevelPointers<const T> rows{};
  for (size_t k = 0; k < tensors.size(); ++k) rows.of[k] = static_cast<const T*>(tensors[k].const_data_ptr());
  return rows;
}

inline LevelPointers<void> mutable_rows(const std::vector<Tensor>& tensors) {
  LevelPointers<void> rows{};
  for (size_t k = 0; k < tensors.size(); ++k) rows.of[k] = tensors[k].mutable_data_ptr();
  return rows;
}

}  // namespace ssd_ops
