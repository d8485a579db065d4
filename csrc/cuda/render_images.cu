// Plan: a block is 32 x 8 output pixels of one image, a thread one of them, so that a warp writes 32 neighbours of each
// plane and its reads lie together. A thread computes its weights itself, which is cheaper than to share them, and
// reads bytes through the cache, where its neighbours find them again. No shared memory.
#include "cuda/load.cuh"
#include "cuda/render_images.h"

namespace ssd_ops {
namespace {

constexpr int kTileWidth = 32, kTileHeight = 8, kThreads = kTileWidth * kTileHeight;

template <typename Out>
__global__ void __launch_bounds__(kThreads) render_images_kernel(RenderTask task, int64_t tiles_across, int64_t tiles) {
  const int64_t b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t x = tile % tiles_across * kTileWidth + threadIdx.x % kTileWidth;
  const int64_t y = tile / tiles_across * kTileHeight + threadIdx.x / kTileWidth;
  if (x >= task.size || y >= task.size) return;
  const RenderImage image = render_image(task, b);
  const float* window = task.windows + 4 * b;
  const RenderAxis across = render_axis(window[0], window[2], image.width, task.size, task.antialias);
  const RenderAxis down = render_axis(window[1], window[3], image.height, task.size, task.antialias);
  const bool flipped = task.flip != nullptr && task.flip[b];
  const RenderTaps columns = render_taps(across, flipped ? task.size - 1 - x : x), rows = render_taps(down, y);
  const int64_t plane = static_cast<int64_t>(image.height) * image.width;
  float red = 0, green = 0, blue = 0, sum_x = 0, sum_y = 0;
  for (int i = columns.first; i < columns.last; ++i) sum_x += render_weight(across, columns, i);
  for (int r = rows.first; r < rows.last; ++r) {
    const uint8_t* row = image.planes + static_cast<int64_t>(r) * image.width;
    float of_row[3] = {0, 0, 0};
    for (int i = columns.first; i < columns.last; ++i) {
      const float weight = render_weight(across, columns, i);
      of_row[0] += weight * static_cast<float>(row[i]);
      of_row[1] += weight * static_cast<float>(row[plane + i]);
      of_row[2] += weight * static_cast<float>(row[2 * plane + i]);
    }
    const float weight = render_weight(down, rows, r);
    sum_y += weight;
    red += weight * of_row[0];
    green += weight * of_row[1];
    blue += weight * of_row[2];
  }
  const bool shown = columns.last > columns.first && rows.last > rows.first;
  const float inverse = 1.0f / (sum_x * sum_y);  // unused where nothing is shown
  Out* out = static_cast<Out*>(task.out) + (b * 3 * task.size + y) * task.size + x;
  float colours[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const float matrix[4] = {render_matrix(task, b, 4 * c), render_matrix(task, b, 4 * c + 1),
                             render_matrix(task, b, 4 * c + 2), render_matrix(task, b, 4 * c + 3)};
    colours[c] = render_colour(matrix, red * inverse, green * inverse, blue * inverse);
  }
  const float shift = render_shift(task, b);
  if (shift != 0.0f) {
    const RenderColour shifted = render_hue({colours[0], colours[1], colours[2]}, shift);
    colours[0] = shifted.red;
    colours[1] = shifted.green;
    colours[2] = shifted.blue;
  }
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const float value = shown ? colours[c] : task.fill[c];
    out[c * task.size * task.size] = narrow<Out>((value - task.mean[c]) / task.std[c]);
  }
}

}  // namespace

int launch_render_images(const RenderTask& task, CUstream_st* stream) {
  const int64_t across = ceil_div(task.size, kTileWidth), tiles = across * ceil_div(task.size, kTileHeight);
  return dispatch_dtype(task.dtype, [&](auto type) {
    using Out = decltype(type);
    if constexpr (sizeof(Out) <= sizeof(float)) {
      return launch(render_images_kernel<Out>, grid_blocks(task.batch * tiles, 1), kThreads, 0, stream, task, across,
                    tiles);
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

}  // namespace ssd_ops
