// Plan: one block per tile of 32 x 32 output pixels of one image; a thread computes four of them, in one column at a
// distance of 8 rows, so that a warp writes 32 neighboring pixels of each plane and its reads are near each other. The
// input columns of an output column are computed once for all four. A thread computes its weights itself, which is
// cheaper than sharing them, and reads bytes through the cache, where its neighbors find them again. No shared memory.
#include "cuda/common/load.cuh"
#include "cuda/render_images.h"

namespace ssd_ops {
namespace {

constexpr int kPixelTile = 32, kRowsAtOnce = 8, kThreads = kPixelTile * kRowsAtOnce;

// The color of one output pixel within the image.
__device__ RenderColor blend(const RenderImage& image, const RenderAxis& across, const RenderTaps& columns, float sum_x,
                             const RenderAxis& down, const RenderTaps& rows) {
  const int64_t plane = static_cast<int64_t>(image.height) * image.width;
  const uint8_t* row = image.planes + static_cast<int64_t>(rows.first) * image.width;
  float red = 0, green = 0, blue = 0, sum_y = 0;
  for (int r = rows.first; r < rows.last; ++r, row += image.width) {
    const uint8_t *green_row = row + plane, *blue_row = green_row + plane;
    float row_color[3] = {0, 0, 0};
    for (int i = columns.first; i < columns.last; ++i) {
      const float weight = render_weight(across, columns, i);
      row_color[0] += weight * static_cast<float>(__ldg(row + i));
      row_color[1] += weight * static_cast<float>(__ldg(green_row + i));
      row_color[2] += weight * static_cast<float>(__ldg(blue_row + i));
    }
    const float weight = render_weight(down, rows, r);
    sum_y += weight;
    red += weight * row_color[0];
    green += weight * row_color[1];
    blue += weight * row_color[2];
  }
  const float inverse = 1.0f / (sum_x * sum_y);
  return {red * inverse, green * inverse, blue * inverse};
}

// The color matrix and the shift of hue of image b.
__device__ RenderColor recolor(const RenderParams& params, int64_t b, const RenderColor& color) {
  float matrix[12];
#pragma unroll
  for (int k = 0; k < 12; ++k) matrix[k] = render_matrix(params, b, k);
  const RenderColor changed{render_color(matrix, color.red, color.green, color.blue),
                            render_color(matrix + 4, color.red, color.green, color.blue),
                            render_color(matrix + 8, color.red, color.green, color.blue)};
  const float shift = render_shift(params, b);
  return shift != 0.0f ? render_hue(changed, shift) : changed;
}

template <typename Out>
__global__ void __launch_bounds__(kThreads)
    render_images_kernel(RenderParams params, int64_t tiles_across, int64_t tiles) {
  const int64_t b = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t x = tile % tiles_across * kPixelTile + threadIdx.x % kPixelTile;
  const int64_t top = tile / tiles_across * kPixelTile + threadIdx.x / kPixelTile;
  if (x >= params.size) return;
  const RenderImage image = render_image(params, b);
  const float* crop = params.crops + 4 * b;
  const RenderAxis across = render_axis(crop[0], crop[2], image.width, params.size, params.antialias);
  const RenderAxis down = render_axis(crop[1], crop[3], image.height, params.size, params.antialias);
  const bool flipped = params.flip != nullptr && params.flip[b];
  const RenderTaps columns = render_taps(across, flipped ? params.size - 1 - x : x);
  float sum_x = 0;
  for (int i = columns.first; i < columns.last; ++i) sum_x += render_weight(across, columns, i);
  const int64_t plane = params.size * params.size;
#pragma unroll 1
  for (int64_t y = top; y < top + kPixelTile && y < params.size; y += kRowsAtOnce) {
    const RenderTaps rows = render_taps(down, y);
    RenderColor color{params.fill[0], params.fill[1], params.fill[2]};
    if (columns.last > columns.first && rows.last > rows.first)
      color = recolor(params, b, blend(image, across, columns, sum_x, down, rows));
    Out* out = static_cast<Out*>(params.out) + 3 * plane * b + y * params.size + x;
    out[0] = narrow<Out>((color.red - params.mean[0]) / params.std[0]);
    out[plane] = narrow<Out>((color.green - params.mean[1]) / params.std[1]);
    out[2 * plane] = narrow<Out>((color.blue - params.mean[2]) / params.std[2]);
  }
}

}  // namespace

int launch_render_images(const RenderParams& params, CUstream_st* stream) {
  const int64_t across = ceil_div(params.size, kPixelTile), tiles = across * across;
  return dispatch_dtype(params.dtype, [&](auto type) {
    using Out = decltype(type);
    if constexpr (sizeof(Out) <= sizeof(float)) {
      return launch(render_images_kernel<Out>, grid_blocks(params.num_images * tiles, 1), kThreads, 0, stream, params,
                    across, tiles);
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

}  // namespace ssd_ops
