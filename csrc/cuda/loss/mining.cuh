// Hard negative mining within a block: one step of the radix select, and the weights and sums of the sampled priors.
#pragma once

#include "cuda/common/last_block.cuh"
#include "cuda/common/load.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/loss/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kMineThreads = 1024;
constexpr int kBins = 1 << kRadixBits;
static_assert(kBins == 2 * kMineThreads, "a thread owns two bins");

// One digit of the threshold key: the bin in which the count reaches k, counting from the highest bin.
struct RadixDigit {
  int bin;
  int64_t remaining_k;  // how many keys of the bin are selected
  bool selects_all;     // whether all of them are
};

// The higher of a thread's two bins; thread 0 has the two highest bins.
__device__ inline int high_bin_of_thread() { return kBins - 1 - 2 * static_cast<int>(threadIdx.x); }

// `upper` and `lower` are the counts of high_bin_of_thread() and of the bin below it; k is above 0 and at most the
// total. All threads of the block call this.
__device__ RadixDigit find_digit(int64_t upper, int64_t lower, int64_t k) {
  __shared__ int found_bin;
  __shared__ int64_t found_remaining_k;
  __shared__ bool found_all;
  int64_t total;
  const int64_t before = block_exclusive_sum(upper + lower, &total);
  if (before < k && k <= before + upper + lower) {
    const bool in_upper = k <= before + upper;
    found_bin = in_upper ? high_bin_of_thread() : high_bin_of_thread() - 1;
    found_remaining_k = k - before - (in_upper ? 0 : upper);
    found_all = found_remaining_k == (in_upper ? upper : lower);
  }
  __syncthreads();
  const RadixDigit digit{found_bin, found_remaining_k, found_all};
  __syncthreads();  // they may be written again
  return digit;
}

template <typename T>
__device__ double box_loss(const LossParams& params, int64_t row) {
  const LevelRow at = level_row_of_batch(params.levels, row);
  const Box<T> a = load_box_as<T>(params.loc_type, params.loc.of[at.level], at.row);
  const Box<T> b = load_box_as<T>(params.target_type, params.loc_targets, row);
  double sum = smooth_l1(a.x1 - b.x1);
  sum += smooth_l1(a.y1 - b.y1);
  sum += smooth_l1(a.x2 - b.x2);
  return sum + smooth_l1(a.y2 - b.y2);
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

// Writes the weights of rows first .. first + count - 1 over their cross entropies, and sums their losses over the
// block. keys(i) is the key of row first + i. All threads of the block call this.
template <typename T, typename Keys>
__device__ void write_weights_and_sum_losses(const LossParams& params, int64_t first, int64_t count,
                                             MinedSelection<T> selection, const Keys& keys, double* loc_sum,
                                             double* cls_sum) {
  using Key = sort_key_t<T>;
  const KeyThreshold<Key>& threshold = selection.threshold;
  const int64_t* labels = params.labels + first;
  T* weight = static_cast<T*>(params.weight) + first;
  const bool rank_ties = threshold.num_ties > 0 && !selection.selects_all_ties;  // ties go to the lowest priors
  double loc = 0, cls = 0;
#pragma unroll 1  // unrolled, it would spill registers
  for (int64_t tile = 0; tile < count; tile += kMineThreads) {
    const int64_t p = tile + threadIdx.x;
    const int64_t label = p < count ? labels[p] : -1;
    const Key key = label == 0 ? keys(p) : 0;
    const bool tie = label == 0 && threshold.num_ties > 0 && key == threshold.key;
    bool sampled = label > 0 || key > threshold.key || (tie && selection.selects_all_ties);
    if (rank_ties) {
      int64_t total;  // 64 bits wide: with block_exclusive_count() sm_120 spills
      const int64_t rank = selection.ties_before + block_exclusive_sum(int64_t{tie}, &total);
      sampled = sampled || (tie && rank < threshold.num_ties);
      selection.ties_before += total;
    }
    if (p >= count) continue;
    if (sampled) cls += weight[p];
    if (label > 0) loc += box_loss<T>(params, first + p);
    if (label < -1 || label >= params.num_classes) loc = cls = NAN;  // labels are not validated on a GPU
    weight[p] = sampled ? selection.weight : T(0);
  }
  *loc_sum = block_sum(loc);
  *cls_sum = block_sum(cls);
}

// Positives of the whole batch, if the losses are divided by them.
__device__ inline int64_t count_batch_positives(const LossWorkspace& workspace, const Normalization& normalization) {
  int64_t total = 0;
  if (normalization.normalizer == Normalizer::batch)
    for (int64_t i = threadIdx.x; i < workspace.num_row_blocks; i += kMineThreads) total += workspace.positives[i];
  return block_sum(total);
}

// Writes the block partials, divided by the normalizer; the last block reduces all of them in a fixed order and writes
// the losses.
template <typename T>
__device__ void write_block_partials(const LossWorkspace& workspace, double loc, double cls, T divisor, T* loc_loss,
                                     T* cls_loss) {
  if (threadIdx.x == 0) {
    workspace.sums[2 * blockIdx.x] = loc / static_cast<double>(divisor);
    workspace.sums[2 * blockIdx.x + 1] = cls / static_cast<double>(divisor);
  }
  if (!is_last_block(workspace.ticket)) return;
  loc = cls = 0;
  for (int64_t b = threadIdx.x; b < gridDim.x; b += kMineThreads) {
    loc += __ldcg(&workspace.sums[2 * b]);
    cls += __ldcg(&workspace.sums[2 * b + 1]);
  }
  loc = block_sum(loc);
  cls = block_sum(cls);
  if (threadIdx.x == 0) {
    *loc_loss = static_cast<T>(loc);
    *cls_loss = static_cast<T>(cls);
  }
}

}  // namespace
}  // namespace ssd_ops
