// Mining among more priors than fit into the shared memory of one block: a whole batch, or large images.
//
// Plan: an image is divided into segments of kSegment priors, one block each. There is one launch per digit of the
// radix select: digit_kernel counts, in shared memory, the digits of the keys that have the prefix of the threshold
// key, and adds the counts in global memory; the last block of an image finds the digit. The last of these launches
// also writes the counts of each segment, from which weight_kernel computes how many keys equal to the threshold the
// earlier segments have. Blocks exchange sums of integers only, so the result does not depend on their order.
#pragma once

#include "cuda/loss/mining.cuh"

namespace ssd_ops {
namespace {

constexpr int64_t kSegment = 4096;

// The position of a digit in a key of 8 * sizeof(Key) bits.
struct DigitPosition {
  int shift, bits;
  bool first, last;
};

// Counts the digits of the keys that have the prefix, in shared memory; those of background priors with the first
// digit.
template <typename Key>
__device__ void count_digits(const Key* keys, int64_t count, const DigitPosition& digit, Key prefix, unsigned* counts) {
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) counts[b] = 0;
  __syncthreads();
#pragma unroll 4
  for (int64_t p = threadIdx.x; p < count; p += kMineThreads) {
    const Key key = keys[p];
    const bool counted = digit.first ? is_background(key) : key >> (digit.shift + digit.bits) == prefix;
    if (counted) atomicAdd(&counts[static_cast<int>(key >> digit.shift & ((Key(1) << digit.bits) - 1))], 1u);
  }
  __syncthreads();
}

template <typename T>
__global__ void __launch_bounds__(kMineThreads, 1)
    digit_kernel(LossParams params, Mining mining, Normalization normalization, LossWorkspace workspace,
                 DigitPosition digit) {
  using Key = sort_key_t<T>;
  __shared__ unsigned counts[kBins];
  wait_for_previous_kernel();
  const int64_t num_segments = ceil_div(params.num_priors, kSegment), image = blockIdx.x / num_segments;
  MiningState& state = workspace.mining[image];
  if (!digit.first && state.remaining_k == 0) return;  // no negatives
  const int64_t start = blockIdx.x % num_segments * kSegment,
                count = params.num_priors - start < kSegment ? params.num_priors - start : kSegment;
  const int64_t first = image * params.num_priors + start;
  const Key prefix = static_cast<Key>(state.prefix);
  count_digits(sort_keys<T>(params) + first, count, digit, prefix, counts);
  unsigned* image_counts = workspace.counts + image * kBins;
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) {
    if (counts[b] != 0) atomicAdd(&image_counts[b], counts[b]);
    if (digit.last) workspace.segment_counts[static_cast<int64_t>(blockIdx.x) * kBins + b] = counts[b];
  }
  if (!is_last_block(&state.ticket, static_cast<unsigned>(num_segments))) return;
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) {
    counts[b] = __ldcg(&image_counts[b]);
    image_counts[b] = 0;  // for the next digit
  }
  int64_t k = state.remaining_k;
  if (digit.first) {
    const MiningTotals totals = sum_image_tiles(params, workspace, image, normalization);
    k = num_hard_negatives(mining, totals.positives, totals.background);
  }
  __syncthreads();
  if (k == 0) return;  // remaining_k stays 0
  const RadixDigit found = find_digit<int64_t>(counts, k);
  if (threadIdx.x != 0) return;
  state.prefix = static_cast<uint64_t>(prefix) << digit.bits | static_cast<uint64_t>(found.bin);
  state.remaining_k = found.remaining_k;
  state.selects_all_ties = found.selects_all != 0;
}

template <typename T>
__global__ void __launch_bounds__(kMineThreads, 1)
    weight_kernel(LossParams params, Normalization normalization, LossWorkspace workspace, int last_digit_bits,
                  T* loc_loss, T* cls_loss) {
  using Key = sort_key_t<T>;
  wait_for_previous_kernel();
  const int64_t num_segments = ceil_div(params.num_priors, kSegment), image = blockIdx.x / num_segments,
                segment = blockIdx.x % num_segments;
  const MiningState& state = workspace.mining[image];
  const int64_t start = segment * kSegment,
                count = params.num_priors - start < kSegment ? params.num_priors - start : kSegment;
  const int64_t first = image * params.num_priors + start;
  const MiningTotals totals = sum_image_tiles(params, workspace, image, normalization);
  const T divisor = loss_divisor<T>(normalization, totals.positives, totals.batch_positives);
  MinedSelection<T> selection{{~Key(0), 0}, false, 0, T(1) / divisor};
  if (state.remaining_k > 0) {
    selection.threshold = {static_cast<Key>(state.prefix), state.remaining_k};
    selection.selects_all_ties = state.selects_all_ties;
    const int64_t digit = static_cast<int64_t>(state.prefix & ((uint64_t(1) << last_digit_bits) - 1));
    int64_t ties = 0;
#pragma unroll 1  // unrolled, it would spill registers
    for (int64_t s = threadIdx.x; s < segment; s += kMineThreads)
      ties += workspace.segment_counts[(image * num_segments + s) * kBins + digit];
    selection.ties_before = block_sum(ties);
  }
  TileSums own = segment == 0 ? totals.own : TileSums{0, 0};
  own.cls += write_weights(params, first, static_cast<int>(count), selection, sort_keys<T>(params) + first);
  write_losses(workspace, own, divisor, loc_loss, cls_loss);
}

template <typename T>
cudaError_t launch_segmented_mining(const LossParams& params, const Mining& mining, const Normalization& normalization,
                                    const LossWorkspace& workspace, T* loc_loss, T* cls_loss, cudaStream_t stream) {
  constexpr int kBits = 8 * sizeof(sort_key_t<T>);
  const unsigned blocks = grid_blocks(params.num_images * ceil_div(params.num_priors, kSegment), 1);
  cudaError_t status = cudaSuccess;
  int digit_bits = 0;
  for (int shift = kBits; shift > 0 && status == cudaSuccess;) {
    digit_bits = shift < kRadixBits ? shift : kRadixBits;
    const bool first = shift == kBits;
    shift -= digit_bits;
    status = launch_dependent(digit_kernel<T>, blocks, kMineThreads, 0, stream, params, mining, normalization,
                              workspace, DigitPosition{shift, digit_bits, first, shift == 0});
  }
  if (status != cudaSuccess) return status;
  return launch_dependent(weight_kernel<T>, blocks, kMineThreads, 0, stream, params, normalization, workspace,
                          digit_bits, loc_loss, cls_loss);
}

}  // namespace
}  // namespace ssd_ops
