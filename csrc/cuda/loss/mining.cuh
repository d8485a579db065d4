// Hard negative mining within a block: one step of the radix select, and the weights and sums of the sampled priors.
#pragma once

#include "cuda/common/last_block.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/loss/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kMineThreads = 1024;
constexpr int kBins = 1 << kRadixBits;
static_assert(kBins == 2 * kMineThreads && kMineThreads == kWarpSize * kWarpSize,
              "a thread owns two bins, and a lane has the sum of each warp");

// One digit of the threshold key: the bin in which the count reaches k, counting from the highest bin.
struct RadixDigit {
  int bin;
  int selects_all;      // whether all keys of the bin are selected; an int, since nothing writes padding
  int64_t remaining_k;  // how many are selected
};

// Finds the digit from the counts of the bins; k is above 0 and at most their total. All threads of the block call this
// after the counts are visible. A thread has two bins, thread 0 the two highest.
template <typename Count>
__device__ RadixDigit find_digit(const unsigned* counts, int64_t k) {
  __shared__ Count warp_totals[kWarpSize];
  __shared__ RadixDigit found;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int high_bin = kBins - 1 - 2 * static_cast<int>(threadIdx.x);
  const unsigned upper = counts[high_bin], lower = counts[high_bin - 1];
  const Count own = Count{upper} + lower, total = warp_sum(own);
  if (lane == 0) warp_totals[warp] = total;
  __syncthreads();
  const Count before_warp = warp_sum(lane < warp ? warp_totals[lane] : Count(0)), wanted = static_cast<Count>(k);
  if (before_warp < wanted && wanted <= before_warp + total) {  // the whole warp
    const Count before = before_warp + warp_inclusive_sum(own) - own;
    if (before < wanted && wanted <= before + own) {
      const bool in_upper = wanted <= before + upper;
      const Count remaining = wanted - before - (in_upper ? 0 : upper);
      found = {in_upper ? high_bin : high_bin - 1, remaining == (in_upper ? upper : lower),
               static_cast<int64_t>(remaining)};
    }
  }
  __syncthreads();
  return found;  // it is written again only after the next barrier
}

// What the tiles of an image contain, and the positives of the whole batch if the losses are divided by them.
struct MiningTotals {
  unsigned positives, background, batch_positives;  // fewer than 2^32 rows fit into the memory of a GPU
  TileSums own;  // of the tiles that this thread has read, to be summed over the block
};

// Those of an image of mining. All threads of the block call this.
__device__ inline MiningTotals sum_image_tiles(const LossParams& params, const LossWorkspace& workspace, int64_t image,
                                               const Normalization& normalization) {
  MiningTotals totals{};
  const int64_t count = workspace.num_tiles / params.num_images, first = image * count;
  for (int64_t i = threadIdx.x; i < count; i += kMineThreads) {
    const TileCounts counts = workspace.tile_counts[first + i];
    const TileSums sums = workspace.tile_sums[first + i];
    totals.positives += counts.positives;
    totals.background += counts.background;
    totals.own.loc += sums.loc;
    totals.own.cls += sums.cls;
  }
  if (normalization.normalizer == Normalizer::batch)
    for (int64_t i = threadIdx.x; i < workspace.num_tiles; i += kMineThreads)
      totals.batch_positives += workspace.tile_counts[i].positives;
  unsigned counts[3] = {totals.positives, totals.background, totals.batch_positives};
  block_sums(counts);
  totals.positives = counts[0];
  totals.background = counts[1];
  totals.batch_positives = counts[2];
  return totals;
}

// Which background priors of some rows are sampled, besides the positives. The threshold {~0, 0} selects none: no key
// is higher, and no tie is needed.
template <typename T>
struct MinedSelection {
  KeyThreshold<sort_key_t<T>> threshold;
  bool selects_all_ties;
  int64_t ties_before;  // keys equal to the threshold in earlier rows
  T weight;             // of a sampled prior
};

// Writes the weights of rows first .. first + count - 1, whose keys are keys[0] .. keys[count - 1], and returns the sum
// of the cross entropies of the thread's sampled background priors. All threads of the block call this.
template <typename T>
__device__ double write_weights(const LossParams& params, int64_t first, int count, MinedSelection<T> selection,
                                const sort_key_t<T>* keys) {
  using Key = sort_key_t<T>;
  const KeyThreshold<Key>& threshold = selection.threshold;
  T* weight = static_cast<T*>(params.weight) + first;
  const bool has_ties = threshold.num_ties > 0, rank_ties = has_ties && !selection.selects_all_ties;
  double sum = 0;
  const auto write = [&](int p, Key key, bool sampled) {
    if (sampled && key != kPositiveKey<Key>) sum += cross_entropy_of<T>(key);
    weight[p] = sampled ? selection.weight : T(0);
  };
  if (!rank_ties) {
    const Key lowest = has_ties ? threshold.key : threshold.key + 1;  // of those sampled; 0: only positives are
#pragma unroll 4
    for (int p = threadIdx.x; p < count; p += kMineThreads) {
      const Key key = keys[p];
      write(p, key, key == kPositiveKey<Key> || (lowest != 0 && key >= lowest));
    }
    return sum;
  }
#pragma unroll 1                                            // unrolled, it would spill registers
  for (int tile = 0; tile < count; tile += kMineThreads) {  // ties go to the lowest priors
    const int p = tile + static_cast<int>(threadIdx.x);
    const Key key = p < count ? keys[p] : 0;
    const bool tie = key == threshold.key;
    int64_t total;  // 64 bits wide: with block_exclusive_count() sm_120 spills
    const int64_t rank = selection.ties_before + block_exclusive_sum(int64_t{tie}, &total);
    selection.ties_before += total;
    if (p < count) write(p, key, key == kPositiveKey<Key> || key > threshold.key || (tie && rank < threshold.num_ties));
  }
  return sum;
}

// Writes the sums of the block, divided by the normalizer; the last block reduces all of them in a fixed order and
// writes the losses. `own` are the sums of the thread.
template <typename T>
__device__ void write_losses(const LossWorkspace& workspace, const TileSums& own, T divisor, T* loc_loss, T* cls_loss) {
  double sums[2] = {own.loc, own.cls};
  block_sums(sums);
  if (threadIdx.x == 0) {
    workspace.sums[2 * blockIdx.x] = sums[0] / static_cast<double>(divisor);
    workspace.sums[2 * blockIdx.x + 1] = sums[1] / static_cast<double>(divisor);
  }
  if (!is_last_block(workspace.ticket)) return;
  sums[0] = sums[1] = 0;
  for (int64_t b = threadIdx.x; b < gridDim.x; b += kMineThreads) {
    sums[0] += __ldcg(&workspace.sums[2 * b]);
    sums[1] += __ldcg(&workspace.sums[2 * b + 1]);
  }
  block_sums(sums);
  if (threadIdx.x == 0) {
    *loc_loss = static_cast<T>(sums[0]);
    *cls_loss = static_cast<T>(sums[1]);
  }
}

}  // namespace
}  // namespace ssd_ops
