// The only image arithmetic: which pixels of an image an output pixel is made of, with which weights, and its color.
//
// Plain C++ for host and device, in the order of operations of the reference (ssd_ops/reference/images.py), so that all
// implementations agree bit for bit. An output pixel is sum over y of wy * (sum over x of wx * pixel), both in rising
// order, divided by the sums of the weights.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/box.h"
#include "core/dtype.h"

namespace ssd_ops {

constexpr int64_t kMostImageSide = 32767;  // centers of pixels are exact in float

// Everything that a kernel is told. All arrays are dense.
struct RenderTask {
  const uint8_t* pixels;        // [N]
  int64_t pixel_count;          // N
  const int64_t* offsets;       // [B]: where planes [3, H, W] of image b begin in pixels
  const int64_t* sizes;         // [B, 2]: its height and width
  const float* crops;           // [B, 4]: xyxy in its pixels
  const bool* flip;             // [B], or null: none is flipped
  const float* color_matrices;  // [B, 3, 4], or null: colors stay
  const float* hue;             // [B], turns, or null: hue stays
  void* out;                    // [B, 3, size, size] of `dtype`
  Dtype dtype;
  int64_t batch, size;
  bool antialias;
  float fill[3], mean[3], std[3];
};

struct RenderImage {
  const uint8_t* planes;  // [3, height, width]
  int height, width;
};

// Image b; an image without pixels where offsets and sizes, which nobody looks at on a GPU, do not lie in `pixels`.
SSD_OPS_HD RenderImage render_image(const RenderTask& task, int64_t b) {
  const int64_t offset = task.offsets[b], height = task.sizes[2 * b], width = task.sizes[2 * b + 1];
  if (height < 0 || height > kMostImageSide || width < 0 || width > kMostImageSide) return {task.pixels, 0, 0};
  if (offset < 0 || offset > task.pixel_count - 3 * height * width) return {task.pixels, 0, 0};
  return {task.pixels + offset, static_cast<int>(height), static_cast<int>(width)};
}

// How output pixels lie along one axis of an image.
struct RenderAxis {
  float low, step;       // where the window begins, and pixels of the image for one of the output
  float reach, inverse;  // half the width of the triangle of weights, and 1 / it
  float begin, end;      // the pixels of the image that take part; none if end <= begin
};

SSD_OPS_HD RenderAxis render_axis(float low, float high, int length, int64_t size, bool antialias) {
  const float step = (high - low) / static_cast<float>(size);
  const float reach = antialias && step > 1.0f ? step : 1.0f;
  const float whole = static_cast<float>(length), begin = low > 0.0f ? floorf(low) : 0.0f;
  const float end = low < high ? (high < whole ? ceilf(high) : whole) : 0.0f;
  return {low, step, reach, 1.0f / reach, begin, end};
}

// The pixels first .. last - 1 that output pixel i is made of; none where its center shows nothing of the image.
struct RenderTaps {
  int first, last;
  float center;
};

SSD_OPS_HD RenderTaps render_taps(const RenderAxis& axis, int64_t i) {
  const float center = axis.low + (static_cast<float>(i) + 0.5f) * axis.step;
  if (!(center >= axis.begin && center < axis.end)) return {0, 0, center};
  const float first = floorf(center - axis.reach + 0.5f), last = ceilf(center + axis.reach - 0.5f);
  return {static_cast<int>(first > axis.begin ? first : axis.begin),
          static_cast<int>(last < axis.end ? last : axis.end), center};
}

SSD_OPS_HD float render_weight(const RenderAxis& axis, const RenderTaps& taps, int pixel) {
  const float weight = 1.0f - fabsf(static_cast<float>(pixel) + 0.5f - taps.center) * axis.inverse;
  return weight > 0.0f ? weight : 0.0f;
}

// One channel of a pixel through its row of the color matrix, cut to 0 .. 255; NaN becomes 0.
SSD_OPS_HD float render_color(const float* row, float red, float green, float blue) {
  const float value = row[0] * red + row[1] * green + row[2] * blue + row[3];
  const float above = value > 0.0f ? value : 0.0f;
  return above < 255.0f ? above : 255.0f;
}

struct RenderColor {
  float red, green, blue;
};

// A color in 0 .. 255 with its hue shifted by sixths of HSV's circle. Each channel is full for two sixths, empty for
// two and on its way for two. Hue that is not finite, in which no comparison holds, leaves the least channel.
SSD_OPS_HD RenderColor render_hue(const RenderColor& color, float shift) {
  const float red = color.red, green = color.green, blue = color.blue;
  const float greatest = greater(greater(red, green), blue), least = lesser(lesser(red, green), blue);
  const float depth = greatest - least;
  const bool is_red = greatest == red, is_green = greatest == green;
  const float above = is_red ? green - blue : (is_green ? blue - red : red - green);
  const float from = is_red ? 0.0f : (is_green ? 2.0f : 4.0f);
  const float turned = from + above / (depth > 0.0f ? depth : 1.0f) + shift;
  const float sixth = turned - floorf(turned / 6.0f) * 6.0f;
  const float shares[3] = {fabsf(sixth - 3.0f) - 1.0f, 2.0f - fabsf(sixth - 2.0f), 2.0f - fabsf(sixth - 4.0f)};
  float out[3];
  for (int c = 0; c < 3; ++c)  // cut once more, as the sum may miss the greatest by a last bit
    out[c] = lesser(lesser(at_least_zero(shares[c]), 1.0f) * depth + least, greatest);
  return {out[0], out[1], out[2]};
}

// Entry i of the color matrix of image b.
SSD_OPS_HD float render_matrix(const RenderTask& task, int64_t b, int i) {
  if (task.color_matrices != nullptr) return task.color_matrices[12 * b + i];
  return i % 5 == 0 ? 1.0f : 0.0f;
}

// The shift of hue of image b, in sixths of the circle.
SSD_OPS_HD float render_shift(const RenderTask& task, int64_t b) {
  return task.hue != nullptr ? 6.0f * task.hue[b] : 0.0f;
}

}  // namespace ssd_ops
