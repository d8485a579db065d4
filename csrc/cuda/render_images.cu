// Plan: one block per tile of output pixels of one image, 32 columns wide; a warp renders kRowsPerWarp consecutive rows
// of it, a column per thread, so that it writes 32 neighboring pixels of each plane and its reads are near each other.
// The weights of the input columns of an output column stay in registers if there are few (up to a reduction to half
// the size). A row of the image that is blended along x once serves all output rows that it contributes to: the last
// two are kept. All threads of a warp have the same rows, so none waits for another, and each lane computes a part of
// their weights. Bytes are read through the cache, where neighbors find them again. No shared memory.
#include <type_traits>

#include "core/levels.h"
#include "cuda/common/divisor.cuh"
#include "cuda/common/load.cuh"
#include "cuda/render_images.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kTileWidth = 32, kRowsPerWarp = 8, kTileHeight = kThreads / kTileWidth * kRowsPerWarp;

// The input columns of an output column and their weights: kTaps of them from `first` on, some with weight 0.
template <int kTaps>
struct Columns {
  int first;
  float weights[kTaps];

  // The image has at least kTaps columns, and `taps` are at most as many.
  __device__ Columns(const RenderAxis& across, const RenderTaps& taps, int width)
      : first(taps.first < width - kTaps ? taps.first : width - kTaps) {
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      const bool counts = first + k >= taps.first && first + k < taps.last;
      weights[k] = counts ? render_weight(across, taps, first + k) : 0.0f;
    }
  }
  __device__ float sum() const {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kTaps; ++k) sum += weights[k];
    return sum;
  }
};

// The colors of one row of the image, blended along x. `pixel` is the red value of the first column.
template <int kTaps>
__device__ __forceinline__ RenderColor blend_row(const Columns<kTaps>& columns, const uint8_t* pixel, int64_t plane) {
  const uint8_t *green = pixel + plane, *blue = green + plane;
  RenderColor sum{0, 0, 0};
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    const float weight = columns.weights[k];
    sum.red += weight * static_cast<float>(__ldg(pixel + k));
    sum.green += weight * static_cast<float>(__ldg(green + k));
    sum.blue += weight * static_cast<float>(__ldg(blue + k));
  }
  return sum;
}

// The rows of the image that were blended last.
template <int kTaps>
struct BlendedRows {
  const Columns<kTaps>& columns;
  const uint8_t* pixels;  // the first column of row 0
  int width;
  int64_t plane;
  int newer = -1, older = -1;
  RenderColor newer_color{}, older_color{};

  __device__ RenderColor operator()(int row) {
    if (row == newer) return newer_color;
    if (row == older) return older_color;
    older = newer;
    older_color = newer_color;
    newer = row;
    newer_color = blend_row(columns, pixels + static_cast<int64_t>(row) * width, plane);
    return newer_color;
  }
};

// The rows of the image for the output rows of a warp, and their weights. Each lane has a part: lane kPerRow y + k has
// the taps of output row y and the weight of tap k.
struct WarpRows {
  static constexpr int kPerRow = kWarpSize / kRowsPerWarp;
  RenderAxis down;
  RenderTaps own;
  float own_weight, own_sum;  // the latter over all taps of the row

  __device__ WarpRows(const RenderAxis& axis, int64_t top) : down(axis) {
    const int lane = threadIdx.x % kWarpSize;
    own = render_taps(down, top + lane / kPerRow);
    own_weight = render_weight(down, own, own.first + lane % kPerRow);
    own_sum = 0;
    for (int r = own.first; r < own.last; ++r) own_sum += render_weight(down, own, r);
  }
  // What lane `part` of output row y has. All lanes of the warp call this.
  template <typename T>
  __device__ T of_row(T own_value, int y, int part = 0) const {
    return __shfl_sync(kFullMask, own_value, y * kPerRow + part);
  }
};

// The color of the output pixel in row y of the warp within the image, from the sum of the weights of its columns.
template <int kTaps>
__device__ __forceinline__ RenderColor blend(BlendedRows<kTaps>& blended, float sum_x, const WarpRows& rows, int y,
                                             const RenderTaps& taps) {
  float red = 0, green = 0, blue = 0;
#pragma unroll 1
  for (int r = taps.first; r < taps.last; ++r) {
    const RenderColor row = blended(r);
    const int part = r - taps.first;
    const float weight =
        part < WarpRows::kPerRow ? rows.of_row(rows.own_weight, y, part) : render_weight(rows.down, taps, r);
    red += weight * row.red;
    green += weight * row.green;
    blue += weight * row.blue;
  }
  const float inverse = 1.0f / (sum_x * rows.of_row(rows.own_sum, y));
  return {red * inverse, green * inverse, blue * inverse};
}

// The same from any number of columns, without blended rows: with a reduction to less than half the size output rows
// have few rows of the image in common.
__device__ __forceinline__ RenderColor blend_many(const RenderImage& image, const RenderAxis& across,
                                                  const RenderTaps& columns, float sum_x, const RenderAxis& down,
                                                  const RenderTaps& rows) {
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
__device__ __forceinline__ RenderColor recolor(const RenderParams& params, int64_t b, const RenderColor& color) {
  // The identity changes nothing: channels are finite, or all of them are NaN.
  if (params.color_matrices == nullptr && params.hue == nullptr)
    return {render_clamp(color.red), render_clamp(color.green), render_clamp(color.blue)};
  float matrix[12];
#pragma unroll
  for (int k = 0; k < 12; ++k) matrix[k] = render_matrix(params, b, k);
  const RenderColor changed{render_color(matrix, color.red, color.green, color.blue),
                            render_color(matrix + 4, color.red, color.green, color.blue),
                            render_color(matrix + 8, color.red, color.green, color.blue)};
  const float shift = render_shift(params, b);
  return shift != 0.0f ? render_hue(changed, shift) : changed;
}

struct Divisors {
  Divisor red, green, blue;
};

// Output pixels (x, top) .. (x, top + kRowsPerWarp - 1) of image b, x of which may be past the last column. blend(y,
// taps) is the color of the pixel in row y of the warp, which has `taps`; all threads of the warp call it.
template <typename Out, typename Blend>
__device__ __forceinline__ void render_column(const RenderParams& params, const Divisors& stds, int64_t b,
                                              const RenderTaps& columns, const WarpRows& rows, int64_t x, int64_t top,
                                              Blend blend) {
  const int64_t out_plane = params.size * params.size;
  Out* out = static_cast<Out*>(params.out) + 3 * out_plane * b + top * params.size + x;
#pragma unroll 1
  for (int y = 0; y < kRowsPerWarp && top + y < params.size; ++y, out += params.size) {
    const RenderTaps of_y{rows.of_row(rows.own.first, y), rows.of_row(rows.own.last, y),
                          rows.of_row(rows.own.center, y)};
    RenderColor color{params.fill[0], params.fill[1], params.fill[2]};
    if (of_y.last > of_y.first) {  // for all threads of the warp
      const RenderColor blended = blend(y, of_y);
      if (columns.last > columns.first) color = recolor(params, b, blended);
    }
    if (x >= params.size) continue;
    out[0] = narrow<Out>(stds.red.quotient(color.red - params.mean[0]));
    out[out_plane] = narrow<Out>(stds.green.quotient(color.green - params.mean[1]));
    out[2 * out_plane] = narrow<Out>(stds.blue.quotient(color.blue - params.mean[2]));
  }
}

template <typename Out>
__global__ void __launch_bounds__(kThreads)
    render_images_kernel(RenderParams params, Divisors stds, int64_t tiles_across, int64_t tiles) {
  const int64_t b = quotient(blockIdx.x, tiles), index = blockIdx.x - b * tiles, row = quotient(index, tiles_across);
  const int64_t x = (index - row * tiles_across) * kTileWidth + threadIdx.x % kTileWidth;
  const int64_t top = row * kTileHeight + threadIdx.x / kTileWidth * kRowsPerWarp;
  if (top >= params.size) return;
  const RenderImage image = render_image(params, b);
  const float* crop = params.crops + 4 * b;
  const RenderAxis across = render_axis(crop[0], crop[2], image.width, params.size, params.antialias);
  const WarpRows rows(render_axis(crop[1], crop[3], image.height, params.size, params.antialias), top);
  const bool flipped = params.flip != nullptr && params.flip[b];
  const RenderTaps taps = render_taps(across, flipped ? params.size - 1 - x : x);
  const auto render = [&](auto blend_pixel) { render_column<Out>(params, stds, b, taps, rows, x, top, blend_pixel); };
  const auto with_columns = [&](auto count) {
    constexpr int kTaps = decltype(count)::value;
    const Columns<kTaps> columns(across, taps, image.width);
    BlendedRows<kTaps> blended{columns, image.planes + columns.first, image.width,
                               static_cast<int64_t>(image.height) * image.width};
    const float sum_x = columns.sum();
    render([&](int y, const RenderTaps& of_y) { return blend(blended, sum_x, rows, y, of_y); });
  };
  // Less than 2 support + 1 pixels have their centers within the filter.
  if (across.support <= 1.0f && image.width >= 2) return with_columns(std::integral_constant<int, 2>());
  if (across.support <= 1.5f && image.width >= 3) return with_columns(std::integral_constant<int, 3>());
  if (across.support <= 2.0f && image.width >= 4) return with_columns(std::integral_constant<int, 4>());
  float sum_x = 0;
  for (int i = taps.first; i < taps.last; ++i) sum_x += render_weight(across, taps, i);
  render([&](int, const RenderTaps& of_y) { return blend_many(image, across, taps, sum_x, rows.down, of_y); });
}

}  // namespace

int launch_render_images(const RenderParams& params, CUstream_st* stream) {
  const int64_t across = ceil_div(params.size, kTileWidth), tiles = across * ceil_div(params.size, kTileHeight);
  const Divisors stds{Divisor(params.std[0]), Divisor(params.std[1]), Divisor(params.std[2])};
  return dispatch_dtype(params.dtype, [&](auto type) {
    using Out = decltype(type);
    if constexpr (sizeof(Out) <= sizeof(float)) {
      return launch(render_images_kernel<Out>, grid_blocks(params.num_images * tiles, 1), kThreads, 0, stream, params,
                    stds, across, tiles);
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

}  // namespace ssd_ops
