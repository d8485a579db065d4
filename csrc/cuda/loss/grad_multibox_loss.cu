// Plan: one block per tile of kRowTile rows of a level (priors of the batch). Its threads fill the tile's gradient of
// the logits with zeros in stores of 16 bytes; then its warps process the few rows whose prior is sampled, each lane
// every 32nd class, and overwrite the zeros. Logits of the other rows are not read. The first kRowTile threads write
// the gradient of loc, one box each. The incoming gradients are read on the device.
#include "cuda/loss/multibox_loss.h"
#include "cuda/loss/row_sum.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kRowTile = 64;

template <typename T>
__device__ void store_box_as(Dtype type, void* boxes, int64_t i, const Box<T>& box) {
  const auto store = [&](auto zero) {
    using Out = decltype(zero);
    const auto as = [](T x) { return narrow<Out>(static_cast<compute_t<Out>>(x)); };
    static_cast<Box<Out>*>(boxes)[i] = {as(box.x1), as(box.y1), as(box.x2), as(box.y2)};
  };
  switch (type) {
    case Dtype::f64: return store(double());
    case Dtype::f16: return store(__half());
    case Dtype::bf16: return store(__nv_bfloat16());
    default: return store(float());
  }
}

template <typename T>
__device__ void fill_loc(const GradLossParams& grad, LevelRow at, int64_t row, T weight) {
  const LossParams& params = grad.forward;
  Box<T> slope{0, 0, 0, 0};
  if (params.labels[row] > 0) {
    const Box<T> a = load_box_as<T>(params.loc_type, params.loc.of[at.level], at.row);
    const Box<T> b = load_box_as<T>(params.target_type, params.loc_targets, row);
    const T scale = weight * *static_cast<const T*>(grad.grad_loc_loss);
    slope = {scale * smooth_l1_slope(a.x1 - b.x1), scale * smooth_l1_slope(a.y1 - b.y1),
             scale * smooth_l1_slope(a.x2 - b.x2), scale * smooth_l1_slope(a.y2 - b.y2)};
  }
  store_box_as(params.loc_type, grad.loc.of[at.level], at.row, slope);
}

// `count` elements from a 16-byte boundary on.
template <typename Out>
__device__ void fill_zero(Out* out, int64_t count) {
  constexpr int kPerStore = 16 / sizeof(Out);
  const int64_t whole = count / kPerStore;
  for (int64_t i = threadIdx.x; i < whole; i += kThreads) reinterpret_cast<uint4*>(out)[i] = make_uint4(0, 0, 0, 0);
  for (int64_t i = whole * kPerStore + threadIdx.x; i < count; i += kThreads) out[i] = narrow<Out>(compute_t<Out>(0));
}

template <typename In>
__global__ void __launch_bounds__(kThreads) grad_kernel(GradLossParams grad) {
  using T = compute_t<In>;
  __shared__ T scales[kRowTile];  // of the gradient of each row
  __shared__ int64_t batch_rows[kRowTile];
  const LossParams& params = grad.forward;
  const int64_t classes = params.num_classes;
  const LevelTile tile = level_tile(params.levels, params.batch_size, blockIdx.x, int64_t{kRowTile});
  const int count = static_cast<int>(tile.left < kRowTile ? tile.left : kRowTile);
  if (threadIdx.x < count) {
    const LevelRow at{tile.level, tile.first + threadIdx.x};
    const int64_t row = batch_rows[threadIdx.x] = batch_row(params.levels, at.level, at.row);
    const T weight = static_cast<const T*>(params.weight)[row];
    scales[threadIdx.x] = weight == T(0) ? T(0) : weight * *static_cast<const T*>(grad.grad_cls_loss);
    fill_loc(grad, at, row, weight);
  }
  In* out = static_cast<In*>(grad.logits.of[tile.level]) + tile.first * classes;
  fill_zero(out, count * classes);
  __syncthreads();
  const int lane = threadIdx.x % kWarpSize;
  for (int r = threadIdx.x / kWarpSize; r < count; r += kThreads / kWarpSize) {
    const T scale = scales[r];
    if (scale == T(0)) continue;
    const In* logits = static_cast<const In*>(params.logits.of[tile.level]) + (tile.first + r) * classes;
    const RowSum<T> row = row_sum<false>(logits, static_cast<int>(classes), lane, kWarpSize);
    const T lse = log_of(row.sum) + row.shift;
    const int64_t label = params.labels[batch_rows[r]];
#pragma unroll 1  // few rows are sampled; unrolled, float64 spills
    for (int64_t c = lane; c < classes; c += kWarpSize) {
      const T probability = exp_of(widen(logits[c]) - lse);
      out[r * classes + c] = narrow<In>(scale * (c == label ? probability - T(1) : probability));
    }
  }
}

}  // namespace

int launch_grad_multibox_loss(const GradLossParams& grad, CUstream_st* stream) {
  const LossParams& params = grad.forward;
  return dispatch_dtype(params.logits_type, [&](auto zero) {
    const int64_t tiles = count_level_tiles(params.levels, params.batch_size, kRowTile);
    return launch(grad_kernel<decltype(zero)>, grid_blocks(tiles, 1), kThreads, 0, stream, grad);
  });
}

}  // namespace ssd_ops
