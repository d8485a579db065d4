// Mining among more priors than one block should take: a whole batch, or large images.
//
// Plan: a block takes kPart priors of an image. A launch for each digit of the keys: digit_kernel counts, in shared
// memory, the digits of those keys that begin as the cut does, and adds the counts up in global memory; the last block
// of an image finds the digit of the cut. The last launch of these also leaves the counts of each part, from which
// weigh_kernel knows how many keys equal to the cut stand in earlier parts. Sums of integers alone are shared between
// blocks, so no order shows in a result.
#pragma once

#include "cuda/common/block.cuh"
#include "cuda/loss/mining.cuh"

namespace ssd_ops {
namespace {

constexpr int64_t kPart = 4096;

// A digit's place in a key of 8 * sizeof(Key) bits.
struct DigitPlace {
  int low, width;
  bool first, last;
};

// The keys of a part, made anew each time.
template <typename T>
struct PartKeys {
  const T* cross_entropy;
  const int64_t* labels;

  __device__ typename MiningKey<T>::type operator()(int64_t p) const { return mining_key(cross_entropy[p], labels[p]); }
};

template <typename T>
__global__ void __launch_bounds__(kMineThreads, 1)
    digit_kernel(LossTask task, Mining mining, LossScratch scratch, DigitPlace place) {
  using Key = typename MiningKey<T>::type;
  constexpr int kBits = 8 * sizeof(Key);
  __shared__ unsigned counts[kBins];
  await_previous();
  const int64_t parts = ceil_div(task.priors, kPart), image = blockIdx.x / parts;
  ImageMining& state = scratch.mining[image];
  if (!place.first && state.left == 0) return;  // nothing is wanted
  const int64_t start = blockIdx.x % parts * kPart, count = task.priors - start < kPart ? task.priors - start : kPart;
  const int64_t first = image * task.priors + start;
  const PartKeys<T> keys{static_cast<const T*>(task.weight) + first, task.labels + first};
  const Key prefix = static_cast<Key>(state.prefix);
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) counts[b] = 0;
  int positives = 0, background = 0;
  __syncthreads();
#pragma unroll 4
  for (int64_t p = threadIdx.x; p < count; p += kMineThreads) {
    const Key key = keys(p);
    const bool begins_so = place.first || key >> ((place.low + place.width) % kBits) == prefix;
    if (begins_so) atomicAdd(&counts[static_cast<int>(key >> place.low & ((Key(1) << place.width) - 1))], 1u);
    positives += keys.labels[p] > 0;
    background += keys.labels[p] == 0;
  }
  if (place.first) {
    positives = warp_sum(positives);
    background = warp_sum(background);
    if (threadIdx.x % kWarpSize == 0) {
      atomicAdd(&state.positives, static_cast<unsigned long long>(positives));
      atomicAdd(&state.background, static_cast<unsigned long long>(background));
    }
  }
  __syncthreads();
  unsigned* all = scratch.counts + image * kBins;
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) {
    if (counts[b] != 0) atomicAdd(&all[b], counts[b]);
    if (place.last) scratch.part_counts[static_cast<int64_t>(blockIdx.x) * kBins + b] = counts[b];
  }
  if (!is_last_block(&state.ticket, static_cast<unsigned>(parts))) return;
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) {
    counts[b] = __ldcg(&all[b]);
    all[b] = 0;  // for the next digit
  }
  const int64_t wanted = place.first ? negatives_wanted(mining, static_cast<int64_t>(__ldcg(&state.positives)),
                                                        static_cast<int64_t>(__ldcg(&state.background)))
                                     : state.left;
  __syncthreads();
  if (wanted == 0) return;  // left is 0
  const Digit digit = find_digit(counts[upper_bin()], counts[upper_bin() - 1], wanted);
  if (threadIdx.x != 0) return;
  state.prefix = static_cast<uint64_t>(prefix) << place.width | static_cast<uint64_t>(digit.value);
  state.left = digit.left;
  state.every_tie = digit.every_tie;
}

template <typename T>
__global__ void __launch_bounds__(kMineThreads, 1)
    weigh_kernel(LossTask task, Division division, LossScratch scratch, int last_width, T* loc_loss, T* cls_loss) {
  using Key = typename MiningKey<T>::type;
  __shared__ int64_t partial[kMineThreads / kWarpSize];
  await_previous();
  const int64_t parts = ceil_div(task.priors, kPart), image = blockIdx.x / parts, part = blockIdx.x % parts;
  const ImageMining& state = scratch.mining[image];
  const int64_t start = part * kPart, count = task.priors - start < kPart ? task.priors - start : kPart;
  const int64_t first = image * task.priors + start, total = positives_of_batch(scratch, division);
  const T norm = loss_norm<T>(division, static_cast<int64_t>(state.positives), total);
  Chosen<T> chosen{{~Key(0), 0}, false, 0, T(1) / norm};
  if (state.left > 0) {
    chosen.cut = {static_cast<Key>(state.prefix), state.left};
    chosen.every_tie = state.every_tie;
    const int64_t digit = static_cast<int64_t>(state.prefix & ((uint64_t(1) << last_width) - 1));
    int64_t ties = 0;
#pragma unroll 1  // more would not fit into the registers
    for (int64_t p = threadIdx.x; p < part; p += kMineThreads)
      ties += scratch.part_counts[(image * parts + p) * kBins + digit];
    chosen.ties_before = block_sum(ties, partial);
  }
  const PartKeys<T> keys{static_cast<const T*>(task.weight) + first, task.labels + first};
  double loc, cls;
  weigh_rows<T>(task, first, count, chosen, keys, &loc, &cls);
  leave_sums(scratch, loc, cls, norm, loc_loss, cls_loss);
}

template <typename T>
cudaError_t launch_parts(const LossTask& task, const Mining& mining, const Division& division,
                         const LossScratch& scratch, T* loc_loss, T* cls_loss, cudaStream_t stream) {
  constexpr int kBits = 8 * sizeof(typename MiningKey<T>::type);
  const unsigned blocks = grid_blocks(task.images * ceil_div(task.priors, kPart), 1);
  cudaError_t status = cudaSuccess;
  int width = 0;
  for (int low = kBits; low > 0 && status == cudaSuccess;) {
    width = low < kMiningDigit ? low : kMiningDigit;
    const bool first = low == kBits;
    low -= width;
    status = launch_next(digit_kernel<T>, blocks, kMineThreads, 0, stream, task, mining, scratch,
                         DigitPlace{low, width, first, low == 0});
  }
  if (status != cudaSuccess) return status;
  return launch_next(weigh_kernel<T>, blocks, kMineThreads, 0, stream, task, division, scratch, width, loc_loss,
                     cls_loss);
}

}  // namespace
}  // namespace ssd_ops
