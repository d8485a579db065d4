// Which background priors take part in the training loss, and the sums over all that do: what a block does of it.
#pragma once

#include "cuda/common/block.cuh"
#include "cuda/common/block_scan.cuh"
#include "cuda/common/load.cuh"
#include "cuda/loss/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kMineThreads = 1024;
constexpr int kBins = 1 << kMiningDigit;
static_assert(kBins == 2 * kMineThreads, "a thread owns two bins");

// The digit at which the count from the highest down reaches `wanted`, and how many are left for it.
struct Digit {
  int value;
  int64_t left;
  bool every_tie;  // all that have this digit are taken
};

// The higher of a thread's two bins: thread 0 has the two highest of all.
__device__ inline int upper_bin() { return kBins - 1 - 2 * static_cast<int>(threadIdx.x); }

// `upper` and `lower` are the counts of upper_bin() and of the bin below; `wanted` is above 0 and no more than all. All
// threads of the block call this.
__device__ Digit find_digit(int64_t upper, int64_t lower, int64_t wanted) {
  __shared__ int64_t partial[kMineThreads / kWarpSize], found_left;
  __shared__ int found;
  __shared__ bool found_all;
  const int64_t before = block_sum_before(upper + lower, partial);
  if (before < wanted && wanted <= before + upper + lower) {
    const bool in_upper = wanted <= before + upper;
    found = in_upper ? upper_bin() : upper_bin() - 1;
    found_left = wanted - before - (in_upper ? 0 : upper);
    found_all = found_left == (in_upper ? upper : lower);
  }
  __syncthreads();
  const Digit digit{found, found_left, found_all};
  __syncthreads();  // they may be written again
  return digit;
}

template <typename T>
__device__ double box_loss(const LossTask& task, int64_t row) {
  const Box<T> a = load_box_as<T>(task.loc_type, task.loc, row);
  const Box<T> b = load_box_as<T>(task.target_type, task.loc_targets, row);
  double sum = smooth_l1(a.x1 - b.x1);
  sum += smooth_l1(a.y1 - b.y1);
  sum += smooth_l1(a.x2 - b.x2);
  return sum + smooth_l1(a.y2 - b.y2);
}

// Who takes part of some rows, besides the positives.
template <typename T>
struct Chosen {
  MiningCut<typename MiningKey<T>::type> cut;  // without ties: no background prior
  bool every_tie;
  int64_t ties_before;  // in rows before these
  T share;              // the weight of those that take part
};

// Writes the weights of rows first .. first + count - 1 over their cross entropies, and adds up their losses: the sums
// are those of the block. keys(i) is the key of row first + i. All threads of the block call this.
template <typename T, typename Keys>
__device__ void weigh_rows(const LossTask& task, int64_t first, int64_t count, Chosen<T> chosen, const Keys& keys,
                           double* loc_sum, double* cls_sum) {
  using Key = typename MiningKey<T>::type;
  __shared__ double partial[kMineThreads / kWarpSize];
  __shared__ int64_t partial_counts[kMineThreads / kWarpSize];
  const int64_t* labels = task.labels + first;
  T* weight = static_cast<T*>(task.weight) + first;
  const bool rank_ties = chosen.cut.ties > 0 && !chosen.every_tie;  // only some: those of the lowest priors
  double loc = 0, cls = 0;
#pragma unroll 1  // more would not fit into the registers
  for (int64_t tile = 0; tile < count; tile += kMineThreads) {
    const int64_t p = tile + threadIdx.x;
    const int64_t label = p < count ? labels[p] : -1;
    const Key key = label == 0 ? keys(p) : 0;
    const bool tie = label == 0 && chosen.cut.ties > 0 && key == chosen.cut.key;
    bool takes_part = label > 0 || key > chosen.cut.key || (tie && chosen.every_tie);
    if (rank_ties) {
      const int64_t mark = tie, rank = chosen.ties_before + block_sum_before(mark, partial_counts);
      takes_part = takes_part || (tie && rank < chosen.cut.ties);
      chosen.ties_before += block_sum(mark, partial_counts);
    }
    if (p >= count) continue;
    if (takes_part) cls += weight[p];
    if (label > 0) loc += box_loss<T>(task, first + p);
    if (label < -1 || label >= task.classes) loc = cls = NAN;  // nobody could look before: the losses show it
    weight[p] = takes_part ? chosen.share : T(0);
  }
  *loc_sum = block_sum(loc, partial);
  *cls_sum = block_sum(cls, partial);
}

// Positives of the whole batch, where the losses are divided by them.
__device__ inline int64_t positives_of_batch(const LossScratch& scratch, const Division& division) {
  __shared__ int64_t partial[kMineThreads / kWarpSize];
  int64_t total = 0;
  if (division.by == Normalizer::batch)
    for (int64_t i = threadIdx.x; i < scratch.row_blocks; i += kMineThreads) total += scratch.positives[i];
  return block_sum(total, partial);
}

// Leaves the sums of a block, divided by the normalizer; the last block to do so adds up all of them in one order and
// writes the losses.
template <typename T>
__device__ void leave_sums(const LossScratch& scratch, double loc, double cls, T norm, T* loc_loss, T* cls_loss) {
  __shared__ double partial[kMineThreads / kWarpSize];
  if (threadIdx.x == 0) {
    scratch.sums[2 * blockIdx.x] = loc / static_cast<double>(norm);
    scratch.sums[2 * blockIdx.x + 1] = cls / static_cast<double>(norm);
  }
  if (!is_last_block(scratch.finished)) return;
  loc = cls = 0;
  for (int64_t b = threadIdx.x; b < gridDim.x; b += kMineThreads) {
    loc += __ldcg(&scratch.sums[2 * b]);
    cls += __ldcg(&scratch.sums[2 * b + 1]);
  }
  loc = block_sum(loc, partial);
  cls = block_sum(cls, partial);
  if (threadIdx.x == 0) {
    *loc_loss = static_cast<T>(loc);
    *cls_loss = static_cast<T>(cls);
  }
}

}  // namespace
}  // namespace ssd_ops
