// Rows of a detector's outputs as runs: consecutive rows of a level that are consecutive rows of the batch, too.
#pragma once

#include "core/levels.h"

namespace ssd_ops::cpu {

struct LevelRun {
  int level;
  int64_t row;        // the first one, among those of the level
  int64_t batch_row;  // the same one as image * P + prior
  int64_t count;
};

// Calls f(run) for rows begin .. end - 1 of a batch, counted level after level.
template <typename F>
SSD_OPS_HD void for_each_run(const Levels& levels, int64_t batch_size, int64_t begin, int64_t end, F&& f) {
  int64_t first_of_level = 0;
  for (int level = 0; level < levels.count; ++level) {
    const int64_t per_image = levels.num_priors(level), rows = batch_size * per_image;
    const int64_t last = end - first_of_level < rows ? end - first_of_level : rows;
    for (int64_t row = begin > first_of_level ? begin - first_of_level : 0; row < last;) {
      const int64_t left_of_image = levels.count == 1 ? last : per_image - row % per_image;
      const int64_t count = last - row < left_of_image ? last - row : left_of_image;
      f(LevelRun{level, row, batch_row(levels, level, row), count});
      row += count;
    }
    first_of_level += rows;
  }
}

}  // namespace ssd_ops::cpu
