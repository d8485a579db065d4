// Input rows are resized along x once and kept in a ring buffer until no output row needs them.
#include "cpu/render_images.h"

#include <algorithm>

#include "cpu/common/load.h"
#include "cpu/common/scratch.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

int max_taps(const RenderAxis& axis, int64_t begin, int64_t end) {
  int count = 0;
  for (int64_t i = begin; i < end; ++i) {
    const RenderTaps taps = render_taps(axis, i);
    count = std::max(count, taps.last - taps.first);
  }
  return count;
}

// The weights of all output columns of an image. All columns have the same number of them, padded with 0, so that the
// loops run over columns.
class Columns {
 public:
  Columns(const RenderAxis& axis, int64_t size, bool flip)
      : size_(size), taps_(max_taps(axis, 0, size)), first_(size), sums_(size), shown_(size), weights_(size * taps_) {
    for (int64_t i = 0; i < size; ++i) {
      const RenderTaps taps = render_taps(axis, flip ? size - 1 - i : i);
      const int count = taps.last - taps.first;
      shown_[i] = count > 0;
      first_[i] = taps.first;
      float sum = 0.0f;
      for (int t = 0; t < taps_; ++t) {
        const float weight = t < count ? render_weight(axis, taps, taps.first + t) : 0.0f;
        weights_[t * size + i] = weight;
        sum += weight;
      }
      sums_[i] = count > 0 ? sum : 1.0f;
      if (count == 0) continue;
      begin_ = std::min(begin_, taps.first);
      end_ = std::max(end_, taps.last);
    }
    for (int64_t i = 0; i < size; ++i) first_[i] = shown_[i] ? first_[i] - begin_ : 0;
    wide_.grow(end_ - begin_ + taps_ > 0 ? end_ - begin_ + taps_ : 1);
  }

  bool empty() const { return taps_ == 0; }
  const float* sums() const { return sums_.data(); }
  const int32_t* shown() const { return shown_.data(); }

  // Weighted sums of one row of bytes, one for each output column, not yet divided by the sums of the weights.
  void blend(const uint8_t* row, float* __restrict out) {
    float* __restrict wide = wide_.data();
    const int count = end_ - begin_;
    for (int x = 0; x < count; ++x) wide[x] = static_cast<float>(row[begin_ + x]);
    for (int x = 0; x < taps_; ++x) wide[count + x] = 0.0f;  // only multiplied by weight 0
    for (int64_t i = 0; i < size_; ++i) out[i] = 0.0f;
    const int32_t* __restrict first = first_.data();
    for (int t = 0; t < taps_; ++t) {
      const float* __restrict weights = weights_.data() + t * size_;
      for (int64_t i = 0; i < size_; ++i) out[i] += weights[i] * wide[first[i] + t];
    }
  }

 private:
  int64_t size_;
  int taps_, begin_ = kMaxImageSide, end_ = 0;
  Scratch<int32_t> first_;
  Scratch<float> sums_;
  Scratch<int32_t> shown_;
  Scratch<float> weights_;  // [taps, size]
  Scratch<float> wide_;
};

// Converts the sums [3, size] of a row to colors, in place; the weights along y add up to `sum`.
void recolor_row(const RenderParams& params, int64_t b, const Columns& columns, float sum, float* sums) {
  const int64_t size = params.size;
  float* __restrict red = sums, * __restrict green = sums + size, * __restrict blue = sums + 2 * size;
  const float* __restrict weights = columns.sums();
  float matrix[12];
  for (int k = 0; k < 12; ++k) matrix[k] = render_matrix(params, b, k);
  for (int64_t i = 0; i < size; ++i) {
    const float inverse = 1.0f / (weights[i] * sum);
    const float of_red = red[i] * inverse, of_green = green[i] * inverse, of_blue = blue[i] * inverse;
    red[i] = render_color(matrix, of_red, of_green, of_blue);
    green[i] = render_color(matrix + 4, of_red, of_green, of_blue);
    blue[i] = render_color(matrix + 8, of_red, of_green, of_blue);
  }
  const float shift = render_shift(params, b);
  for (int64_t i = 0; i < size && shift != 0.0f; ++i) {
    const RenderColor color = render_hue({red[i], green[i], blue[i]}, shift);
    red[i] = color.red;
    green[i] = color.green;
    blue[i] = color.blue;
  }
}

// Writes a row of sums [3, size] to the output row y of image b; the weights along y add up to `sum`, 0 outside the
// image.
template <typename Out>
void finish_row(const RenderParams& params, int64_t b, int64_t y, const Columns& columns, float sum, float* sums) {
  const int64_t size = params.size;
  const int32_t any = sum > 0.0f, *__restrict shown = columns.shown();
  if (any != 0) recolor_row(params, b, columns, sum, sums);
  for (int c = 0; c < 3; ++c) {
    const float* __restrict colors = sums + c * size;
    Out* __restrict out = static_cast<Out*>(params.out) + ((b * 3 + c) * size + y) * size;
    const float fill = params.fill[c], mean = params.mean[c], deviation = params.std[c];
    for (int64_t i = 0; i < size; ++i) {
      const float value = (shown[i] & any) != 0 ? colors[i] : fill;
      out[i] = narrow<Out>((value - mean) / deviation);
    }
  }
}

// Output rows y_begin .. y_end - 1 of image b.
template <typename Out>
void render_part(const RenderParams& params, int64_t b, int64_t y_begin, int64_t y_end) {
  const int64_t size = params.size, row_size = 3 * size;
  const RenderImage image = render_image(params, b);
  const float* crop = params.crops + 4 * b;
  const RenderAxis down = render_axis(crop[1], crop[3], image.height, size, params.antialias);
  Columns columns(render_axis(crop[0], crop[2], image.width, size, params.antialias), size,
                  params.flip != nullptr && params.flip[b]);
  const int slots = max_taps(down, y_begin, y_end);
  Scratch<float> ring(slots * row_size), sums(row_size);  // row r of the image is in slot r % slots
  int last_resized = -1;                                  // all rows up to this one have been resized
  for (int64_t y = y_begin; y < y_end; ++y) {
    const RenderTaps taps = render_taps(down, y);
    float total = 0.0f;
    for (int64_t i = 0; i < row_size; ++i) sums[i] = 0.0f;
    for (int r = taps.first; r < taps.last && !columns.empty(); ++r) {
      float* __restrict row = ring.data() + r % slots * row_size;
      if (r > last_resized) {
        for (int64_t c = 0; c < 3; ++c)
          columns.blend(image.planes + (c * image.height + r) * image.width, row + c * size);
        last_resized = r;
      }
      const float weight = render_weight(down, taps, r);
      total += weight;
      float* __restrict into = sums.data();
      for (int64_t i = 0; i < row_size; ++i) into[i] += weight * row[i];
    }
    finish_row<Out>(params, b, y, columns, total, sums.data());
  }
}

}  // namespace

void render_rows(const RenderParams& params, int64_t begin, int64_t end) {
  while (begin < end) {
    const int64_t b = begin / params.size, y = begin % params.size, count = std::min(end - begin, params.size - y);
    dispatch_dtype(params.dtype, [&](auto type) {
      using Out = decltype(type);
      if constexpr (sizeof(Out) <= sizeof(float)) render_part<Out>(params, b, y, y + count);
    });
    begin += count;
  }
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
