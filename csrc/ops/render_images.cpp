// render_images: validation, allocation, and dispatch to the kernels.
#include "cpu/render_images.h"

#include "ops/glue.h"
#ifdef SSD_OPS_WITH_CUDA
#include "cuda/render_images.h"
#endif

namespace ssd_ops {
namespace {

constexpr int64_t kRowGrain = 16;  // minimum of output rows for a thread: some 100 us of work

void check_three(const char* name, const std::vector<double>& values) {
  if (values.size() != 3) fail(std::string(name) + " must be 3 numbers, got " + bracketed(values));
  for (const double value : values)
    if (!std::isfinite(value)) fail(std::string(name) + " must be 3 finite numbers, got " + bracketed(values));
}

void check_colors(const std::vector<double>& fill, const std::vector<double>& mean, const std::vector<double>& std) {
  check_three("fill", fill);
  check_three("mean", mean);
  check_three("std", std);
  for (const double value : std)
    if (!(value > 0)) fail("std must be 3 numbers above 0, got " + bracketed(std));
}

// Values are validated on the CPU only: on a GPU that would synchronize. The emulated kernels behave as on a GPU.
void check_ranges(const Tensor& pixels, const Tensor& offsets, const Tensor& sizes) {
  if (uses_cuda_kernels(pixels)) return;
  const Tensor dense_offsets = dense(offsets), dense_sizes = dense(sizes);
  const int64_t *start = dense_offsets.const_data_ptr<int64_t>(), *side = dense_sizes.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < sizes.numel(); ++i)
    if (side[i] < 0 || side[i] > kMaxImageSide)
      fail("sizes must be between 0 and 32767, got " + std::to_string(side[i]) + " at index " + std::to_string(i));
  for (int64_t b = 0; b < offsets.numel(); ++b)
    if (start[b] < 0 || start[b] > pixels.numel() - 3 * side[2 * b] * side[2 * b + 1])
      fail("images must hold 3 x " + std::to_string(side[2 * b]) + " x " + std::to_string(side[2 * b + 1]) +
           " bytes from offsets[" + std::to_string(b) + "] = " + std::to_string(start[b]) + " on, got " +
           std::to_string(pixels.numel()) + " bytes");
}

void check_inputs(const Tensor& pixels, const Tensor& offsets, const Tensor& sizes, const Tensor& crops,
                  const std::optional<Tensor>& flip, const std::optional<Tensor>& color_matrices,
                  const std::optional<Tensor>& hue, int64_t size) {
  check_shape("images", pixels, "[N]", pixels.dim() == 1);
  check_dtype("images", pixels, ScalarType::Byte);
  check_boxes("crops", crops, "[B, 4]", 2);
  check_same_device("crops", crops, "images", pixels);
  const int64_t num_images = crops.size(0);
  const auto count_and = [&](const char* rest) {
    return [num_images, rest] { return "[" + std::to_string(num_images) + rest; };
  };
  check_shape("offsets", offsets, count_and("]"), has_shape(offsets, {num_images}));
  check_dtype("offsets", offsets, ScalarType::Long);
  check_same_device("offsets", offsets, "images", pixels);
  check_shape("sizes", sizes, count_and(", 2]"), has_shape(sizes, {num_images, 2}));
  check_dtype("sizes", sizes, ScalarType::Long);
  check_same_device("sizes", sizes, "images", pixels);
  if (flip) {
    check_shape("flip", *flip, count_and("]"), has_shape(*flip, {num_images}));
    check_dtype("flip", *flip, ScalarType::Bool);
    check_same_device("flip", *flip, "images", pixels);
  }
  if (color_matrices) {
    check_shape("color_matrices", *color_matrices, count_and(", 3, 4]"),
                has_shape(*color_matrices, {num_images, 3, 4}));
    check_floating("color_matrices", *color_matrices);
    check_same_device("color_matrices", *color_matrices, "images", pixels);
  }
  if (hue) {
    check_shape("hue", *hue, count_and("]"), has_shape(*hue, {num_images}));
    check_floating("hue", *hue);
    check_same_device("hue", *hue, "images", pixels);
  }
  check_at_least_one("size", size);
  check_ranges(pixels, offsets, sizes);
}

Tensor render_images(const Tensor& pixels, const Tensor& offsets, const Tensor& sizes, const Tensor& crops,
                     const std::optional<Tensor>& flip, const std::optional<Tensor>& color_matrices,
                     const std::optional<Tensor>& hue, int64_t size, bool antialias, std::vector<double> fill,
                     std::vector<double> mean, std::vector<double> std, std::string dtype) {
  check_inputs(pixels, offsets, sizes, crops, flip, color_matrices, hue, size);
  check_colors(fill, mean, std);
  const int choice = check_one_of("dtype", dtype, {"float32", "float16", "bfloat16"});
  constexpr ScalarType types[] = {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16};
  constexpr Dtype names[] = {Dtype::f32, Dtype::f16, Dtype::bf16};
  const int64_t num_images = crops.size(0);
  Tensor out = empty(pixels, {num_images, 3, size, size}, types[choice]);
  if (num_images == 0) return out;
  const Tensor bytes = dense(pixels, ScalarType::Byte, 1), starts = dense(offsets), sides = dense(sizes);
  const Tensor boxes = dense(crops, ScalarType::Float);
  const Tensor flips = flip ? dense(*flip) : starts;  // keep the memory until the kernels are done or queued
  const Tensor matrices = color_matrices ? dense(*color_matrices, ScalarType::Float) : starts;
  const Tensor turns = hue ? dense(*hue, ScalarType::Float) : starts;
  RenderParams params{.pixels = const_data<uint8_t>(bytes),
                      .num_bytes = bytes.numel(),
                      .offsets = const_data<int64_t>(starts),
                      .sizes = const_data<int64_t>(sides),
                      .crops = const_data<float>(boxes),
                      .flip = flip ? const_data<bool>(flips) : nullptr,
                      .color_matrices = color_matrices ? const_data<float>(matrices) : nullptr,
                      .hue = hue ? const_data<float>(turns) : nullptr,
                      .out = out.mutable_data_ptr(),
                      .dtype = names[choice],
                      .num_images = num_images,
                      .size = size,
                      .antialias = antialias,
                      .fill = {},
                      .mean = {},
                      .std = {}};
  for (int c = 0; c < 3; ++c) {
    params.fill[c] = static_cast<float>(fill[c]);
    params.mean[c] = static_cast<float>(mean[c]);
    params.std[c] = static_cast<float>(std[c]);
  }
#ifdef SSD_OPS_WITH_CUDA
  if (uses_cuda_kernels(pixels)) {
    const CudaScope scope(pixels);
    check_cuda(launch_render_images(params, scope.stream()), "render_images");
    return out;
  }
#endif
  chosen_isa();
  torch::stable::parallel_for(0, num_images * size, kRowGrain,
                              [&](int64_t begin, int64_t end) { SSD_OPS_CPU(render_rows, params, begin, end); });
  return out;
}

}  // namespace

SSD_OPS_REGISTER(render_images, render_images)

}  // namespace ssd_ops
