// Plan, two launches: zero_kernel writes zeros for all logits in stores of 16 bytes; sampled_rows_kernel overwrites
// those of the few rows whose prior is sampled. It starts while the last zeros are written (on sm_90 and later), reads
// the weights, writes the gradient of loc, one box per thread, collects the sampled rows of its tile, and computes
// their gradients in registers, a warp for kTogether rows at once, so that their loads overlap; then it waits for the
// zeros. Logits of the other rows are not read. The incoming gradients are read on the device.
#include "cuda/common/scan.cuh"
#include "cuda/loss/multibox_loss.h"
#include "cuda/loss/row_sum.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kSampledThreads = 128, kTogether = 4;

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
__device__ void fill_loc(const GradLossParams& grad, LevelRow at, int64_t row, int64_t label, T weight) {
  const LossParams& params = grad.forward;
  Box<T> slope{0, 0, 0, 0};
  if (label > 0) {
    const Box<T> a = load_box_as<T>(params.loc_type, params.loc.of[at.level], at.row);
    const Box<T> b = load_box_as<T>(params.target_type, params.loc_targets, row);
    const T scale = weight * *static_cast<const T*>(grad.grad_loc_loss);
    slope = {scale * smooth_l1_slope(a.x1 - b.x1), scale * smooth_l1_slope(a.y1 - b.y1),
             scale * smooth_l1_slope(a.x2 - b.x2), scale * smooth_l1_slope(a.y2 - b.y2)};
  }
  store_box_as(params.loc_type, grad.loc.of[at.level], at.row, slope);
}

// Where the gradient of the logits is, level after level, in pieces of kPieceBytes.
struct ZeroPieces {
  uint4* begin[kMaxLevels];
  int64_t bytes[kMaxLevels];
  int64_t first_piece[kMaxLevels + 1];
};

constexpr int64_t kPieceBytes = 32 << 10;

__global__ void __launch_bounds__(kThreads) zero_kernel(ZeroPieces pieces, int num_levels) {
  wait_for_previous_kernel();
  int level = 0;
  while (level + 1 < num_levels && blockIdx.x >= pieces.first_piece[level + 1]) ++level;
  const int64_t from = (blockIdx.x - pieces.first_piece[level]) * kPieceBytes, left = pieces.bytes[level] - from;
  const int64_t bytes = left < kPieceBytes ? left : kPieceBytes;
  uint4* out = pieces.begin[level] + from / 16;
#pragma unroll 8
  for (int i = threadIdx.x; i < bytes / 16; i += kThreads) out[i] = make_uint4(0, 0, 0, 0);
  char* end = reinterpret_cast<char*>(out);
  for (int64_t i = bytes / 16 * 16 + threadIdx.x; i < bytes; i += kThreads) end[i] = 0;
}

template <typename T>
struct SampledRow {
  T scale;
  int label, row;  // the row within the tile
};

// The gradients of kTogether sampled rows at once, of which the last `left` exist, for at most kPerLane classes per
// lane.
template <int kPerLane, typename In, typename T>
__device__ __forceinline__ void fill_rows(const SampledRow<T>* sampled, int left, const In* logits, In* grad,
                                          int classes) {
  const int lane = threadIdx.x % kWarpSize;
  T x[kTogether][kPerLane], lse[kTogether];
#pragma unroll
  for (int r = 0; r < kTogether; ++r) {
    const In* row = logits + static_cast<int64_t>(sampled[r < left ? r : left - 1].row) * classes;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      const int c = k * kWarpSize + lane;
      x[r][k] = c < classes ? widen(row[c]) : -T(INFINITY);
    }
  }
#pragma unroll
  for (int r = 0; r < kTogether; ++r) {
    T max = x[r][0], sum = 0;
#pragma unroll
    for (int k = 1; k < kPerLane; ++k) max = max_of(max, x[r][k]);
    const T shift = shift_of(warp_reduce(max, [](T a, T b) { return max_of(a, b); }));
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) sum += exp_term(x[r][k] - shift);
    lse[r] = log_of(warp_sum(sum)) + shift;
  }
  wait_for_previous_kernel();  // it writes the zeros
#pragma unroll
  for (int r = 0; r < kTogether; ++r) {
    if (r >= left) break;
    const SampledRow<T> row = sampled[r];
    In* out = grad + static_cast<int64_t>(row.row) * classes;
#pragma unroll
    for (int k = 0; k < kPerLane; ++k) {
      const int c = k * kWarpSize + lane;
      const T probability = exp_of(x[r][k] - lse[r]);
      if (c < classes) out[c] = narrow<In>(row.scale * (c == row.label ? probability - T(1) : probability));
    }
  }
}

// The same for one row with any number of classes: its logits are read three times.
template <typename In, typename T>
__device__ __forceinline__ void fill_long_row(const SampledRow<T>& sampled, const In* logits, In* grad, int classes) {
  const int lane = threadIdx.x % kWarpSize;
  const In* row = logits + static_cast<int64_t>(sampled.row) * classes;
  In* out = grad + static_cast<int64_t>(sampled.row) * classes;
  const RowSum<T> sum = row_sum<false>(row, classes, lane, kWarpSize);
  const T lse = log_of(sum.sum) + sum.shift;
  wait_for_previous_kernel();  // it writes the zeros
#pragma unroll 1
  for (int c = lane; c < classes; c += kWarpSize) {
    const T probability = exp_of(widen(row[c]) - lse);
    out[c] = narrow<In>(sampled.scale * (c == sampled.label ? probability - T(1) : probability));
  }
}

// kPerLane: classes per lane, 0 for any number.
template <int kPerLane, typename In>
__global__ void __launch_bounds__(kSampledThreads, sizeof(In) == 8 ? 1 : 8) sampled_rows_kernel(GradLossParams grad) {
  using T = compute_t<In>;
  __shared__ SampledRow<T> sampled[kSampledThreads];
  const LossParams& params = grad.forward;
  const int classes = static_cast<int>(params.num_classes);
  const LevelTile tile = level_tile(params.levels, params.batch_size, blockIdx.x, int64_t{kSampledThreads});
  SampledRow<T> own{0, 0, static_cast<int>(threadIdx.x)};
  if (threadIdx.x < tile.left) {
    const LevelRow at{tile.level, tile.first + threadIdx.x};
    const int64_t row = batch_row(params.levels, at.level, at.row), label = params.labels[row];
    const T weight = static_cast<const T*>(params.weight)[row];
    own.scale = weight == T(0) ? T(0) : weight * *static_cast<const T*>(grad.grad_cls_loss);
    own.label = label < params.num_classes ? static_cast<int>(label) : -1;
    fill_loc(grad, at, row, label, weight);
  }
  int count;
  const int index = block_exclusive_count(own.scale != T(0), &count);
  if (own.scale != T(0)) sampled[index] = own;
  __syncthreads();
  const int64_t offset = tile.first * params.num_classes;
  const In* logits = static_cast<const In*>(params.logits.of[tile.level]) + offset;
  In* out = static_cast<In*>(grad.logits.of[tile.level]) + offset;
  constexpr int kStep = kPerLane > 0 ? kTogether : 1, kWarps = kSampledThreads / kWarpSize;
  for (int i = threadIdx.x / kWarpSize * kStep; i < count; i += kWarps * kStep) {
    if constexpr (kPerLane > 0) {
      fill_rows<kPerLane>(sampled + i, count - i, logits, out, classes);
    } else {
      fill_long_row(sampled[i], logits, out, classes);
    }
  }
  wait_for_previous_kernel();  // also by threads without a row
}

ZeroPieces zero_pieces(const GradLossParams& grad) {
  const LossParams& params = grad.forward;
  ZeroPieces pieces{};
  for (int level = 0; level < params.levels.count; ++level) {
    pieces.begin[level] = static_cast<uint4*>(grad.logits.of[level]);
    pieces.bytes[level] =
        params.batch_size * params.levels.num_priors(level) * params.num_classes * bytes_of(params.logits_type);
    pieces.first_piece[level + 1] = pieces.first_piece[level] + ceil_div(pieces.bytes[level], kPieceBytes);
  }
  return pieces;
}

}  // namespace

int launch_grad_multibox_loss(const GradLossParams& grad, CUstream_st* stream) {
  const LossParams& params = grad.forward;
  const ZeroPieces pieces = zero_pieces(grad);
  const cudaError_t status = launch(zero_kernel, grid_blocks(pieces.first_piece[params.levels.count], 1), kThreads, 0,
                                    stream, pieces, params.levels.count);
  if (status != cudaSuccess) return status;
  const int64_t tiles = count_level_tiles(params.levels, params.batch_size, kSampledThreads);
  return dispatch_dtype(params.logits_type, [&](auto zero) {
    using In = decltype(zero);
    const auto with = [&](auto kernel) {
      return launch_dependent(kernel, grid_blocks(tiles, 1), kSampledThreads, 0, stream, grad);
    };
    return params.num_classes <= 3 * kWarpSize ? with(sampled_rows_kernel<3, In>) : with(sampled_rows_kernel<0, In>);
  });
}

}  // namespace ssd_ops
