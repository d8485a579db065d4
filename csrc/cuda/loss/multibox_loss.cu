// Read in this order: core/loss.h (the parameters, sort keys), this file, workspace.cuh, rows.cuh (the first kernel),
// mining.cuh (mining within a block), segmented_mining.cuh (several blocks per image).
//
// Plan, two launches: rows_kernel (rows.cuh) writes the sort keys of the priors and sums the positives; then
// mine_kernel selects the hard negatives, one block per image. It stages the keys in shared memory, counts their first
// digits as it loads them, and finds the k highest by radix select. It overwrites the keys with the weights and sums
// the losses of the image; the last block to finish sums the images. If an image has too many priors for the shared
// memory of a block, several blocks mine it in more launches (segmented_mining.cuh). The result does not depend on the
// order of threads or blocks.
#include "cuda/common/workspace.h"
#include "cuda/loss/multibox_loss.h"
#include "cuda/loss/rows.cuh"
#include "cuda/loss/segmented_mining.cuh"

namespace ssd_ops {
namespace {

// The digits of the sort keys, for this pass of the radix select and the next.
using DigitCounts = unsigned[2][kBins];

// Stages the keys of the block, and counts the first digits of background priors. Other threads may read both after the
// next barrier.
template <typename Key>
__device__ void stage_keys(const Key* from, int count, Key* keys, DigitCounts& digits) {
  constexpr int kShift = 8 * sizeof(Key) - kRadixBits, kLoadsInFlight = 9;  // all of SSD300's 8732 priors
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) digits[0][b] = digits[1][b] = 0;
  __syncthreads();
#pragma unroll 1
  for (int first = threadIdx.x; first < count; first += kLoadsInFlight * kMineThreads) {
    Key loaded[kLoadsInFlight];
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      const int p = first + k * kMineThreads;
      loaded[k] = p < count ? from[p] : 0;
    }
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      const int p = first + k * kMineThreads;
      if (p < count) keys[p] = loaded[k];
      if (is_background(loaded[k])) atomicAdd(&digits[0][static_cast<int>(loaded[k] >> kShift)], 1u);
    }
  }
}

// Radix select of the k highest keys, k at least 1; at least k keys are not 0. The first digits are already counted.
// All threads of the block call this.
template <typename T, typename Key>
__device__ MinedSelection<T> select_top_k(const Key* keys, int count, int64_t k, DigitCounts& digits) {
  constexpr int kBits = 8 * sizeof(Key);
  MinedSelection<T> selection{};
  KeyThreshold<Key>& threshold = selection.threshold;
  RadixDigit digit{};
  int current = 0;
  for (int shift = kBits; shift > 0; current ^= 1) {
    const int digit_bits = shift < kRadixBits ? shift : kRadixBits, prefix_shift = shift;
    shift -= digit_bits;
    if (prefix_shift != kBits) {
#pragma unroll 9
      for (int p = threadIdx.x; p < count; p += kMineThreads) {
        const Key key = keys[p];  // positives have a prefix of their own
        if (key >> prefix_shift == threshold.key)
          atomicAdd(&digits[current][static_cast<int>(key >> shift & ((Key(1) << digit_bits) - 1))], 1u);
      }
      __syncthreads();
    }
    digit = find_digit<unsigned>(digits[current], k);
    k = digit.remaining_k;
    threshold.key = threshold.key << digit_bits | static_cast<Key>(digit.bin);
    for (int b = threadIdx.x; b < kBins; b += kMineThreads) digits[current][b] = 0;  // for the pass after the next
  }
  threshold.num_ties = k;
  selection.selects_all_ties = digit.selects_all != 0;
  return selection;
}

template <typename T>
__global__ void __launch_bounds__(kMineThreads, 1)
    mine_kernel(LossParams params, Mining mining, Normalization normalization, LossWorkspace workspace, T* loc_loss,
                T* cls_loss) {
  using Key = sort_key_t<T>;
  __shared__ DigitCounts digits;
  wait_for_previous_kernel();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * params.num_priors;
  const int count = static_cast<int>(params.num_priors);
  Key* keys = dynamic_shared<Key>();
  stage_keys(sort_keys<T>(params) + first, count, keys, digits);
  MiningTotals totals = sum_image_tiles(params, workspace, blockIdx.x, normalization);  // with a barrier
  const T divisor = loss_divisor<T>(normalization, totals.positives, totals.batch_positives);
  const int64_t k = num_hard_negatives(mining, totals.positives, totals.background);
  MinedSelection<T> selection{{~Key(0), 0}, false, 0, T(1) / divisor};
  if (k > 0) {
    selection = select_top_k<T>(keys, count, k, digits);
    selection.weight = T(1) / divisor;
  }
  totals.own.cls += write_weights(params, first, count, selection, keys);
  write_losses(workspace, totals.own, divisor, loc_loss, cls_loss);
}

// The size of the sort keys of an image.
int64_t key_bytes(const LossParams& params) { return params.num_priors * (params.logits_type == Dtype::f64 ? 8 : 4); }

// Whether a block stages the keys of an image; else several blocks mine it.
bool is_staged(const LossParams& params) {
  constexpr int64_t kMaxStagedBytes = 128 << 10;
  constexpr int64_t kReserved = 20 << 10;  // shared memory for other purposes, with a margin
  int shared = 0;
  if (max_shared_bytes(&shared) != cudaSuccess) return false;
  return key_bytes(params) <= kMaxStagedBytes && key_bytes(params) <= shared - kReserved;
}

LossWorkspace loss_workspace(const LossParams& params, WorkspaceLayout& layout) {
  const int64_t num_segments = params.num_images * ceil_div(params.num_priors, kSegment);
  LossWorkspace workspace{};
  workspace.num_tiles = params.batch_size * plan_rows(params).tiles_per_image;
  workspace.ticket = layout.array<unsigned>(1);
  workspace.tile_counts = layout.array<TileCounts>(workspace.num_tiles);
  workspace.tile_sums = layout.array<TileSums>(workspace.num_tiles);
  workspace.sums = layout.array<double>(2 * num_segments);
  if (is_staged(params)) return workspace;
  workspace.segment_counts = layout.array<unsigned>(num_segments * kBins);
  const size_t zeroed_from = layout.bytes();
  workspace.mining = layout.array<MiningState>(params.num_images);
  workspace.counts = layout.array<unsigned>(params.num_images * kBins);
  workspace.zeroed_words = reinterpret_cast<int64_t*>(workspace.mining);
  workspace.num_zeroed_words = static_cast<int64_t>((layout.bytes() - zeroed_from) / sizeof(int64_t));
  return workspace;
}

template <typename T>
cudaError_t launch_mining(const LossParams& params, const Mining& mining, const Normalization& normalization,
                          const LossWorkspace& workspace, void* loc_loss, void* cls_loss, cudaStream_t stream) {
  const cudaError_t status = launch_rows(params, workspace, stream);
  if (status != cudaSuccess) return status;
  auto *loc = static_cast<T*>(loc_loss), *cls = static_cast<T*>(cls_loss);
  if (!is_staged(params)) return launch_segmented_mining(params, mining, normalization, workspace, loc, cls, stream);
  return launch_dependent(mine_kernel<T>, grid_blocks(params.num_images, 1), kMineThreads,
                          static_cast<size_t>(key_bytes(params)), stream, params, mining, normalization, workspace, loc,
                          cls);
}

}  // namespace

size_t loss_workspace_bytes(const LossParams& params) {
  WorkspaceLayout layout(nullptr);
  loss_workspace(params, layout);
  return layout.bytes();
}

int launch_multibox_loss(const LossParams& params, const Mining& mining, const Normalization& normalization,
                         void* memory, void* loc_loss, void* cls_loss, CUstream_st* stream) {
  WorkspaceLayout layout(memory);
  const LossWorkspace workspace = loss_workspace(params, layout);
  if (params.logits_type == Dtype::f64)
    return launch_mining<double>(params, mining, normalization, workspace, loc_loss, cls_loss, stream);
  return launch_mining<float>(params, mining, normalization, workspace, loc_loss, cls_loss, stream);
}

}  // namespace ssd_ops
