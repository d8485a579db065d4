// Plan: one block per tile of output pixels of one image, 32 columns wide; a warp renders kRowsPerWarp consecutive rows
// of it, a column per thread, so that it writes 32 neighboring pixels of each plane and its reads are near each other.
// The weights of the input columns of an output column stay in registers if there are few (up to a reduction to half
// the size). A row of the image that is blended along x once serves all output rows that it contributes to: the last
// two are kept. All threads of a warp have the same rows, so none waits for another, and each lane computes a part of
// their weights. Bytes are read through the cache, where neighbors find them again. No shared memory.
#include <type_traits>

#include "core/levels.h"
#include "core/ordered_key.h"
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
  __device__ int count() const { return kTaps; }
  __device__ float weight(int k) const { return weights[k]; }
};

// The same for any number of columns.
template <>
struct Columns<0> {
  int first;
  RenderAxis across;
  RenderTaps taps;

  __device__ Columns(const RenderAxis& axis, const RenderTaps& columns, int)
      : first(columns.first), across(axis), taps(columns) {}
  __device__ int count() const { return taps.last - taps.first; }
  __device__ float weight(int k) const { return render_weight(across, taps, first + k); }
};

// The colors of one row of the image, blended along x. `pixel` is the red value of the first column.
template <int kTaps>
__device__ __forceinline__ RenderColor blend_row(const Columns<kTaps>& columns, const uint8_t* pixel, int64_t plane) {
  const uint8_t *green = pixel + plane, *blue = green + plane;
  RenderColor sum{0, 0, 0};
#pragma unroll
  for (int k = 0; k < columns.count(); ++k) {
    const float weight = columns.weight(k);
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

// Divides by a number again and again: with its reciprocal, rounded to the nearest float, two corrections of a quotient
// give the nearest float, as a division does (Markstein's theorem), in half of its instructions. Not for numbers of
// extreme magnitude, nor for a divisor with a significand of ones only.
struct Divisor {
  static constexpr float kLowest = 0x1p-60f, kHighest = 0x1p60f;
  float value, inverse;
  float lowest;  // of the numbers that are divided so

  explicit Divisor(float divisor) : value(divisor), inverse(1.0f / divisor) {
    const bool only_ones = (to_bits(divisor) & 0x7fffffu) == 0x7fffffu;
    lowest = divisor > kLowest && divisor < kHighest && !only_ones ? kLowest : INFINITY;
  }
  __device__ float quotient(float x) const {
    if (!(fabsf(x) > lowest && fabsf(x) < kHighest)) return x / value;
    const float first = x * inverse;
    const float second = fmaf(fmaf(-value, first, x), inverse, first);
    return fmaf(fmaf(-value, second, x), inverse, second);
  }
};

struct Divisors {
  Divisor red, green, blue;
};

// Output pixels (x, top) .. (x, top + kRowsPerWarp - 1) of image b, x of which may be past the last column.
template <typename Out, int kTaps>
__device__ __forceinline__ void render_column(const RenderParams& params, const Divisors& stds, int64_t b,
                                              const RenderImage& image, const RenderAxis& across,
                                              const RenderTaps& taps, const WarpRows& rows, int64_t x, int64_t top) {
  const int64_t out_plane = params.size * params.size;
  const Columns<kTaps> columns(across, taps, image.width);
  float sum_x = 0;
#pragma unroll
  for (int k = 0; k < columns.count(); ++k) sum_x += columns.weight(k);
  BlendedRows<kTaps> blended{columns, image.planes + columns.first, image.width,
                             static_cast<int64_t>(image.height) * image.width};
  Out* out = static_cast<Out*>(params.out) + 3 * out_plane * b + top * params.size + x;
#pragma unroll 1
  for (int y = 0; y < kRowsPerWarp && top + y < params.size; ++y, out += params.size) {
    const RenderTaps of_y{rows.of_row(rows.own.first, y), rows.of_row(rows.own.last, y),
                          rows.of_row(rows.own.center, y)};
    RenderColor color{params.fill[0], params.fill[1], params.fill[2]};
    if (of_y.last > of_y.first) {  // for all threads of the warp
      const RenderColor blend_of_y = blend(blended, sum_x, rows, y, of_y);
      if (taps.last > taps.first) color = recolor(params, b, blend_of_y);
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
  // Less than 2 support + 1 pixels have their centers within the filter.
  const auto with = [&](auto count) {
    render_column<Out, decltype(count)::value>(params, stds, b, image, across, taps, rows, x, top);
  };
  if (across.support <= 1.0f && image.width >= 2) return with(std::integral_constant<int, 2>());
  if (across.support <= 1.5f && image.width >= 3) return with(std::integral_constant<int, 3>());
  if (across.support <= 2.0f && image.width >= 4) return with(std::integral_constant<int, 4>());
  with(std::integral_constant<int, 0>());
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
