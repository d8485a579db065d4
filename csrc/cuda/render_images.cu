// Plan: a block is 32 x 32 output pixels of one image, a thread four of them, in one column at a distance of 8 rows, so
// that a warp writes 32 neighboring pixels of each plane and its reads are near each other. The input columns of an
// output column are computed once for all four. A thread computes its weights itself, which is cheaper than sharing
// them, and reads bytes through the cache, where its neighbors find them again. No shared memory.
#include "cuda/common/load.cuh"
#include "cuda/render_images.h"

namespace ssd_ops {
namespace {

constexpr int kTile = 32, kRowsAtOnce = 8, kThreads = kTile * kRowsAtOnce;

// The color of one output pixel that lies within the image.
__device__ RenderColor blend(const RenderImage& image, const RenderAxis& across, const RenderTaps& columns, float sum_x,
                             const RenderAxis& down, const RenderTaps& rows) {
  const int64_t plane = static_cast<int64_t>(image.height) * image.width;
  const uint8_t* row = image.planes + static_cast<int64_t>(rows.first) * image.width;
  float red = 0, green = 0, blue = 0, sum_y = 0;
  for (int r = rows.first; r < rows.last; ++r, row += image.width) {
    const uint8_t *of_green = row + plane, *of_blue = of_green + plane;
    float of_row[3] = {0, 0, 0};
    for (int i = columns.first; i < columns.last; ++i) {
      const float weight = render_weight(across, columns, i);
      of_row[0] += weight * static_cast<float>(__ldg(row + i));
      of_row[1] += weight * static_cast<float>(__ldg(of_green + i));
      of_row[2] += weight * static_cast<float>(__ldg(of_blue + i));
    }
    const float weight = render_weight(down, rows, r);
    sum_y += weight;
    red += weight * of_row[0];
    green += weight * of_row[1];
    blue += weight * of_row[2];
  }
  const float inverse = 1.0f / (sum_x * sum_y);
  return {red * inverse, green * inverse, blue * inverse};
}

// The color matrix and the shift of hue of image b.
__device__ RenderColor recolor(const RenderTask& task, int64_t b, const RenderColor& color) {
  float matrix[12];
#pragma unroll
  for (int k = 0; k < 12; ++k) matrix[k] = render_matrix(task, b, k);
  const RenderColor changed{render_color(matrix, color.red, color.green, color.blue),
                            render_color(matrix + 4, color.red, color.green, color.blue),
                            render_color(matrix + 8, color.red, color.green, color.blue)};
  const float shift = render_shift(task, b);
  return shift != 0.0f ? render_hue(changed, shift) : changed;
}

template <typename Out>
__global__ void __launch_bounds__(kThreads) render_images_kernel(RenderTask task, int64_t tiles_across, int64_t tiles) {
  const int64_t b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t x = tile % tiles_across * kTile + threadIdx.x % kTile;
  const int64_t top = tile / tiles_across * kTile + threadIdx.x / kTile;
  if (x >= task.size) return;
  const RenderImage image = render_image(task, b);
  const float* window = task.crops + 4 * b;
  const RenderAxis across = render_axis(window[0], window[2], image.width, task.size, task.antialias);
  const RenderAxis down = render_axis(window[1], window[3], image.height, task.size, task.antialias);
  const bool flipped = task.flip != nullptr && task.flip[b];
  const RenderTaps columns = render_taps(across, flipped ? task.size - 1 - x : x);
  float sum_x = 0;
  for (int i = columns.first; i < columns.last; ++i) sum_x += render_weight(across, columns, i);
  const int64_t plane = task.size * task.size;
#pragma unroll 1
  for (int64_t y = top; y < top + kTile && y < task.size; y += kRowsAtOnce) {
    const RenderTaps rows = render_taps(down, y);
    RenderColor color{task.fill[0], task.fill[1], task.fill[2]};
    if (columns.last > columns.first && rows.last > rows.first)
      color = recolor(task, b, blend(image, across, columns, sum_x, down, rows));
    Out* out = static_cast<Out*>(task.out) + 3 * plane * b + y * task.size + x;
    out[0] = narrow<Out>((color.red - task.mean[0]) / task.std[0]);
    out[plane] = narrow<Out>((color.green - task.mean[1]) / task.std[1]);
    out[2 * plane] = narrow<Out>((color.blue - task.mean[2]) / task.std[2]);
  }
}

}  // namespace

int launch_render_images(const RenderTask& task, CUstream_st* stream) {
  const int64_t across = ceil_div(task.size, kTile), tiles = across * across;
  return dispatch_dtype(task.dtype, [&](auto type) {
    using Out = decltype(type);
    if constexpr (sizeof(Out) <= sizeof(float)) {
      return launch(render_images_kernel<Out>, grid_blocks(task.num_images * tiles, 1), kThreads, 0, stream, task,
                    across, tiles);
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

}  // namespace ssd_ops
