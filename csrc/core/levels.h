// The rows of a detector's outputs, one for each prior of each image, in one tensor or in one for each feature level.
//
// A convolution in channels_last leaves the output of a level as [B, H, W, A * columns] in memory: that is [B, priors
// of the level, columns], dense rows of the level, image after image. One tensor [B, P, columns] is a single level with
// all priors. A kernel processes tiles of rows of a level; batch_row() is where the other tensors have the same prior.
#pragma once

#include "core/host_device.h"

namespace ssd_ops {

constexpr int kMaxLevels = 16;

struct Levels {
  int count;
  int64_t first_prior[kMaxLevels + 1];  // of each level in the priors of an image, then P

  SSD_OPS_HD int64_t num_priors() const { return first_prior[count]; }
  SSD_OPS_HD int64_t num_priors(int level) const { return first_prior[level + 1] - first_prior[level]; }
};

// The rows of each level.
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

struct LevelRow {
  int level;
  int64_t row;  // among those of the level, image after image
};

// The row of prior number `prior` of an image.
SSD_OPS_HD LevelRow level_row(const Levels& levels, int64_t image, int64_t prior) {
  int level = 0;
  while (level + 1 < levels.count && prior >= levels.first_prior[level + 1]) ++level;
  return {level, image * levels.num_priors(level) + prior - levels.first_prior[level]};
}

// The row of number image * P + prior of the batch.
SSD_OPS_HD LevelRow level_row_of_batch(const Levels& levels, int64_t batch_row) {
  if (levels.count == 1) return {0, batch_row};
  const int64_t image = quotient(batch_row, levels.num_priors());
  return level_row(levels, image, batch_row - image * levels.num_priors());
}

// image * P + prior of a row of a level.
SSD_OPS_HD int64_t batch_row(const Levels& levels, int level, int64_t row) {
  if (levels.count == 1) return row;
  const int64_t image = quotient(row, levels.num_priors(level));
  return image * levels.num_priors() + levels.first_prior[level] + row - image * levels.num_priors(level);
}

// Rows of a level that are processed together: `left` rows from `first` on, of which a tile takes as many as it has
// space for. Not above 0 past the last tile.
struct LevelTile {
  int level;
  int64_t first, left;
};

// Tile number `index` of all levels of `num_images` images; the tiles of a level have `size` rows, the last one fewer.
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
