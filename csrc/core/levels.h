// The outputs of a detector as rows, one row for each prior of each image, in one tensor or one for each feature level.
//
// In channels_last a convolution stores the output of a level as [B, H, W, A * columns]: that is [B, priors of the
// level, columns], dense rows of the level, image after image. One tensor [B, P, columns] is a single level with all
// priors. Kernels process tiles of rows of one level. Labels and targets are [B, P]: batch_row() maps a row of a level
// to its index image * P + prior in those.
#pragma once

#include "core/host_device.h"

namespace ssd_ops {

constexpr int kMaxLevels = 16;

struct Levels {
  int count;
  int64_t first_prior[kMaxLevels + 1];  // of each level among the priors of an image, then P

  SSD_OPS_HD int64_t num_priors() const { return first_prior[count]; }
  SSD_OPS_HD int64_t num_priors(int level) const { return first_prior[level + 1] - first_prior[level]; }
};

// A pointer to the rows of each level.
template <typename T>
struct LevelPointers {
  T* of[kMaxLevels];
};

inline Levels one_level(int64_t num_priors) { return {1, {0, num_priors}}; }

// a / b for a >= 0 and b > 0, in 32 bits where they suffice, which is several times as fast.
SSD_OPS_HD int64_t quotient(int64_t a, int64_t b) {
  if (static_cast<uint64_t>(a | b) >> 32 == 0) return static_cast<uint32_t>(a) / static_cast<uint32_t>(b);
  return a / b;
}

// A row of a level.
struct LevelRow {
  int level;
  int64_t row;  // index among all rows of the level, image after image
};

// The row of a prior of an image.
SSD_OPS_HD LevelRow level_row(const Levels& levels, int64_t image, int64_t prior) {
  int level = 0;
  while (level + 1 < levels.count && prior >= levels.first_prior[level + 1]) ++level;
  return {level, image * levels.num_priors(level) + prior - levels.first_prior[level]};
}

// The row of a level with the index image * P + prior in the batch: the inverse of batch_row().
SSD_OPS_HD LevelRow level_row_of_batch(const Levels& levels, int64_t batch_row) {
  if (levels.count == 1) return {0, batch_row};
  const int64_t image = quotient(batch_row, levels.num_priors());
  return level_row(levels, image, batch_row - image * levels.num_priors());
}

// The index image * P + prior of a row of a level.
SSD_OPS_HD int64_t batch_row(const Levels& levels, int level, int64_t row) {
  if (levels.count == 1) return row;
  const int64_t image = quotient(row, levels.num_priors(level));
  return image * levels.num_priors() + levels.first_prior[level] + row - image * levels.num_priors(level);
}

// Rows of a level that are processed together.
struct LevelTile {
  int level;
  int64_t first, left;  // its first row, and the rows of the level from there on; 0 or less past the last tile
};

// Tile number `index` of all levels of `num_images` images. The tiles of a level have `size` rows; the last one has
// `left` rows, which are fewer or as many.
SSD_OPS_HD LevelTile level_tile(const Levels& levels, int64_t num_images, int64_t index, int64_t size) {
  int level = 0;
  for (; level + 1 < levels.count; ++level) {
    const int64_t tiles = ceil_div(num_images * levels.num_priors(level), size);
    if (index < tiles) break;
    index -= tiles;
  }
  return {level, index * size, num_images * levels.num_priors(level) - index * size};
}

SSD_OPS_HD int64_t count_level_tiles(const Levels& levels, int64_t num_images, int64_t size) {
  int64_t tiles = 0;
  for (int level = 0; level < levels.count; ++level) tiles += ceil_div(num_images * levels.num_priors(level), size);
  return tiles;
}

}  // namespace ssd_ops
