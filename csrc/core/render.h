// The only image arithmetic: the pixels of an image and their weights for an output pixel, and its color.
//
// Plain C++ for host and device, in the order of operations of the reference (ssd_ops/reference/images.py), so that all
// implementations agree bit for bit. An output pixel is sum over y of wy * (sum over x of wx * pixel), both in
// ascending order, divided by the sums of the weights.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/box.h"
#include "core/dtype.h"

namespace ssd_ops {

constexpr int64_t kMaxImageSide = 32767;  // centers of pixels are exact in float

// All arrays are dense.
struct RenderParams {
  const uint8_t* pixels;        // [N]
  int64_t num_bytes;            // N
  const int64_t* offsets;       // [B]: offset in pixels of the planes [3, H, W] of each image
  const int64_t* sizes;         // [B, 2]: heights and widths
  const float* crops;           // [B, 4]: xyxy, in pixels of the image
  const bool* flip;             // [B], or null: no image is flipped
  const float* color_matrices;  // [B, 3, 4], or null: colors are not changed
  const float* hue;             // [B], in turns, or null: hue is not changed
  void* out;                    // [B, 3, size, size] of `dtype`
  Dtype dtype;
  int64_t num_images, size;
  bool antialias;
  float fill[3], mean[3], std[3];
};

struct RenderImage {
  const uint8_t* planes;  // [3, height, width]
  int height, width;
};

// Image b; an image without pixels if its offset and size, which are not validated on a GPU, exceed `pixels`.
SSD_OPS_HD RenderImage render_image(const RenderParams& params, int64_t b) {
  const int64_t offset = params.offsets[b], height = params.sizes[2 * b], width = params.sizes[2 * b + 1];
  if (height < 0 || height > kMaxImageSide || width < 0 || width > kMaxImageSide) return {params.pixels, 0, 0};
  if (offset < 0 || offset > params.num_bytes - 3 * height * width) return {params.pixels, 0, 0};
  return {params.pixels + offset, static_cast<int>(height), static_cast<int>(width)};
}

// How output pixels map to input pixels along one axis of an image.
struct RenderAxis {
  float low, step;         // start of the crop, and input pixels per output pixel
  float support, inverse;  // half the width of the triangle filter, and its inverse
  float begin, end;        // the pixels of the image within the crop; none if end <= begin
};

SSD_OPS_HD RenderAxis render_axis(float low, float high, int length, int64_t size, bool antialias) {
  const float step = (high - low) / static_cast<float>(size);
  const float support = antialias && step > 1.0f ? step : 1.0f;
  const float whole = static_cast<float>(length), begin = low > 0.0f ? floorf(low) : 0.0f;
  const float end = low < high ? (high < whole ? ceilf(high) : whole) : 0.0f;
  return {low, step, support, 1.0f / support, begin, end};
}

// The input pixels first .. last - 1 of output pixel i; none if its center is outside the image.
struct RenderTaps {
  int first, last;
  float center;
};

SSD_OPS_HD RenderTaps render_taps(const RenderAxis& axis, int64_t i) {
  const float center = axis.low + (static_cast<float>(i) + 0.5f) * axis.step;
  if (!(center >= axis.begin && center < axis.end)) return {0, 0, center};
  const float first = floorf(center - axis.support + 0.5f), last = ceilf(center + axis.support - 0.5f);
  return {static_cast<int>(first > axis.begin ? first : axis.begin),
          static_cast<int>(last < axis.end ? last : axis.end), center};
}

SSD_OPS_HD float render_weight(const RenderAxis& axis, const RenderTaps& taps, int pixel) {
  const float weight = 1.0f - fabsf(static_cast<float>(pixel) + 0.5f - taps.center) * axis.inverse;
  return weight > 0.0f ? weight : 0.0f;
}

// The value clamped to 0 .. 255; NaN becomes 0.
SSD_OPS_HD float render_clamp(float value) {
  const float above = value > 0.0f ? value : 0.0f;
  return above < 255.0f ? above : 255.0f;
}

// One channel of a pixel, from its row of the color matrix.
SSD_OPS_HD float render_color(const float* row, float red, float green, float blue) {
  return render_clamp(row[0] * red + row[1] * green + row[2] * blue + row[3]);
}

struct RenderColor {
  float red, green, blue;
};

// A color in 0 .. 255 with its hue shifted, in sixths of the HSV circle. Each channel is at its maximum for two sixths,
// at its minimum for two, and linear in between. With a hue that is not finite all channels become the minimum.
SSD_OPS_HD RenderColor render_hue(const RenderColor& color, float shift) {
  const float red = color.red, green = color.green, blue = color.blue;
  const float maximum = greater(greater(red, green), blue), minimum = lesser(lesser(red, green), blue);
  const float chroma = maximum - minimum;
  const bool is_red = maximum == red, is_green = maximum == green;
  const float difference = is_red ? green - blue : (is_green ? blue - red : red - green);
  const float base = is_red ? 0.0f : (is_green ? 2.0f : 4.0f);
  const float turned = base + difference / (chroma > 0.0f ? chroma : 1.0f) + shift;
  const float sixth = turned - floorf(turned / 6.0f) * 6.0f;
  const float ramps[3] = {fabsf(sixth - 3.0f) - 1.0f, 2.0f - fabsf(sixth - 2.0f), 2.0f - fabsf(sixth - 4.0f)};
  float out[3];
  for (int c = 0; c < 3; ++c)  // clamped to the maximum, which the rounded sum may exceed
    out[c] = lesser(lesser(clamp_to_zero(ramps[c]), 1.0f) * chroma + minimum, maximum);
  return {out[0], out[1], out[2]};
}

// Entry i of the color matrix of image b.
SSD_OPS_HD float render_matrix(const RenderParams& params, int64_t b, int i) {
  if (params.color_matrices != nullptr) return params.color_matrices[12 * b + i];
  return i % 5 == 0 ? 1.0f : 0.0f;
}

// The shift of hue of image b, in sixths of the circle.
SSD_OPS_HD float render_shift(const RenderParams& params, int64_t b) {
  return params.hue != nullptr ? 6.0f * params.hue[b] : 0.0f;
}

}  // namespace ssd_ops
