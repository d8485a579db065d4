// Plan, two launches: rows_kernel (loss_rows.cuh) leaves lse and the cross entropies; then in mine_kernel a block is an
// image. It selects the hardest negatives digit by digit with a histogram in shared memory (the keys are staged there
// too when they fit), writes the weights over the cross entropies and sums the losses of the image; the last block to
// finish adds up the images. No order of threads or blocks shows in a result.
#include "cuda/block_scan.cuh"
#include "cuda/loss_rows.cuh"
#include "cuda/multibox_loss.h"

namespace ssd_ops {
namespace {

constexpr int kMineThreads = 1024;
constexpr int kBins = 1 << kMiningDigit;
static_assert(kBins == 2 * kMineThreads, "a thread of mine_kernel owns two bins");

template <typename T>
__device__ double box_loss(const LossTask& task, int64_t row) {
  const Box<T> a = load_box_as<T>(task.loc_type, task.loc, row);
  const Box<T> b = load_box_as<T>(task.target_type, task.loc_targets, row);
  double sum = smooth_l1(a.x1 - b.x1);
  sum += smooth_l1(a.y1 - b.y1);
  sum += smooth_l1(a.x2 - b.x2);
  return sum + smooth_l1(a.y2 - b.y2);
}

// The keys of one image: staged in shared memory, or made again from global memory each time.
template <typename T, bool kStaged>
struct Keys {
  using Key = typename MiningKey<T>::type;
  const T* cross_entropy;
  const int64_t* labels;
  int64_t priors;
  Key* staged;

  __device__ Key fresh(int64_t p) const { return mining_key(cross_entropy[p], labels[p]); }
  __device__ Key operator[](int64_t p) const {
    if constexpr (kStaged) {
      return staged[p];
    } else {
      return fresh(p);
    }
  }
};

// The cut that takes `wanted` keys, at least 1; so many are above 0. All threads of the block call this.
template <typename T, bool kStaged, typename Key = typename MiningKey<T>::type>
__device__ MiningCut<Key> select_highest(const Keys<T, kStaged>& keys, int64_t wanted, bool* every_tie) {
  constexpr int kBits = 8 * sizeof(Key);
  __shared__ unsigned counts[kBins];
  __shared__ int64_t partial[kMineThreads / kWarpSize];
  __shared__ int found_digit;
  __shared__ int64_t found_left;
  Key prefix = 0;
  const int top_bin = kBins - 1 - 2 * static_cast<int>(threadIdx.x);  // this thread's bins, and the one below
  for (int low = kBits; low > 0;) {
    const int width = low < kMiningDigit ? low : kMiningDigit, above = low;
    low -= width;
    counts[top_bin] = counts[top_bin - 1] = 0;
    __syncthreads();
#pragma unroll(kStaged ? 4 : 1)
    for (int64_t p = threadIdx.x; p < keys.priors; p += kMineThreads) {
      const Key key = keys[p];
      const bool candidate = above == kBits || key >> (above % kBits) == prefix;
      if (candidate) atomicAdd(&counts[static_cast<int>(key >> low & ((Key(1) << width) - 1))], 1u);
    }
    __syncthreads();
    const int64_t upper = counts[top_bin], both = upper + counts[top_bin - 1];
    const int64_t before = block_sum_before(both, partial);
    if (before < wanted && wanted <= before + both) {
      const bool in_upper = wanted <= before + upper;
      found_digit = in_upper ? top_bin : top_bin - 1;
      found_left = wanted - before - (in_upper ? 0 : upper);
    }
    __syncthreads();
    wanted = found_left;
    prefix = prefix << width | static_cast<Key>(found_digit);
    *every_tie = counts[found_digit] == wanted;
    __syncthreads();  // counts and found values have been read
  }
  return {prefix, wanted};
}

// Adds the images' sums, in one order, and writes the losses. All threads of the last block call this.
template <typename T>
__device__ void finish(const LossScratch& scratch, int64_t images, T* loc_loss, T* cls_loss, double* partial) {
  double loc = 0, cls = 0;
  for (int64_t b = threadIdx.x; b < images; b += kMineThreads) {
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

template <typename T, bool kStaged>
__global__ void __launch_bounds__(kMineThreads)
    mine_kernel(LossTask task, Mining mining, Division division, LossScratch scratch, T* loc_loss, T* cls_loss) {
  using Key = typename MiningKey<T>::type;
  __shared__ double partial[kMineThreads / kWarpSize];
  __shared__ int64_t partial_counts[kMineThreads / kWarpSize];
  __shared__ bool last;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * task.priors;
  const int64_t* labels = task.labels + first;
  T* weight = static_cast<T*>(task.weight) + first;
  const Keys<T, kStaged> keys{weight, labels, task.priors, kStaged ? dynamic_shared<Key>() : nullptr};

  int64_t positives = 0, background = 0, total = 0;
  for (int64_t p = threadIdx.x; p < task.priors; p += kMineThreads) {
    positives += labels[p] > 0;
    background += labels[p] == 0;
    if constexpr (kStaged) keys.staged[p] = keys.fresh(p);
  }
  if (division.by == Normalizer::batch)
    for (int64_t i = threadIdx.x; i < scratch.row_blocks; i += kMineThreads) total += scratch.positives[i];
  positives = block_sum(positives, partial_counts);
  background = block_sum(background, partial_counts);
  total = block_sum(total, partial_counts);
  const T norm = loss_norm<T>(division, positives, total), share = T(1) / norm;

  MiningCut<Key> cut{~Key(0), 0};
  bool every_tie = false;
  const int64_t wanted = negatives_wanted(mining, positives, background);
  if (wanted > 0) cut = select_highest(keys, wanted, &every_tie);
  const bool rank_ties = wanted > 0 && !every_tie;  // only some of the equal ones: those of the lowest priors

  double loc = 0, cls = 0;
  int64_t ties_before = 0;
#pragma unroll 1  // more would not fit into the registers
  for (int64_t tile = 0; tile < task.priors; tile += kMineThreads) {
    const int64_t p = tile + threadIdx.x;
    const int64_t label = p < task.priors ? labels[p] : -1;
    const Key key = label == 0 ? keys[p] : 0;
    const bool tie = label == 0 && wanted > 0 && key == cut.key;
    bool chosen = label > 0 || key > cut.key || (tie && every_tie);
    if (rank_ties) {
      const int64_t mark = tie, rank = ties_before + block_sum_before(mark, partial_counts);
      chosen = chosen || (tie && rank < cut.ties);
      ties_before += block_sum(mark, partial_counts);
    }
    if (p >= task.priors) continue;
    if (chosen) cls += weight[p];
    if (label > 0) loc += box_loss<T>(task, first + p);
    if (label < -1 || label >= task.classes) loc = cls = NAN;  // nobody could look before: the losses show it
    weight[p] = chosen ? share : T(0);
  }
  loc = block_sum(loc, partial);
  cls = block_sum(cls, partial);
  if (threadIdx.x == 0) {
    scratch.sums[2 * blockIdx.x] = loc / static_cast<double>(norm);
    scratch.sums[2 * blockIdx.x + 1] = cls / static_cast<double>(norm);
    __threadfence();
    last = atomicAdd(scratch.finished, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (last) {
    __threadfence();
    finish(scratch, task.images, loc_loss, cls_loss, partial);
  }
}

LossScratch carve(const LossTask& task, void* scratch) {
  int64_t* words = static_cast<int64_t*>(scratch);
  const int64_t row_blocks = ceil_div(task.images * task.priors, rows_of_block(task.classes));
  return {reinterpret_cast<unsigned*>(words), words + 1, reinterpret_cast<double*>(words + 1 + row_blocks), row_blocks};
}

template <typename T>
cudaError_t launch_mining(const LossTask& task, const Mining& mining, const Division& division,
                          const LossScratch& scratch, void* loc_loss, void* cls_loss, cudaStream_t stream) {
  constexpr int64_t kOther = 16 << 10;  // shared memory that is not for keys, with a margin
  int shared = 0;
  const cudaError_t status = max_shared_bytes(&shared);
  if (status != cudaSuccess) return status;
  const int64_t bytes = task.priors * static_cast<int64_t>(sizeof(T));  // a key is as wide as T
  const bool staged = bytes <= shared - kOther;
  return launch(staged ? mine_kernel<T, true> : mine_kernel<T, false>, grid_blocks(task.images, 1), kMineThreads,
                staged ? static_cast<size_t>(bytes) : 0, stream, task, mining, division, scratch,
                static_cast<T*>(loc_loss), static_cast<T*>(cls_loss));
}

}  // namespace

int64_t loss_scratch_size(const LossTask& task) {
  return 1 + ceil_div(task.images * task.priors, rows_of_block(task.classes)) + 2 * task.images;
}

int launch_multibox_loss(const LossTask& task, const Mining& mining, const Division& division, void* scratch,
                         void* loc_loss, void* cls_loss, CUstream_st* stream) {
  const LossScratch parts = carve(task, scratch);
  const cudaError_t status = launch_rows(task, parts, stream);
  if (status != cudaSuccess) return status;
  if (task.logits_type == Dtype::f64)
    return launch_mining<double>(task, mining, division, parts, loc_loss, cls_loss, stream);
  return launch_mining<float>(task, mining, division, parts, loc_loss, cls_loss, stream);
}

}  // namespace ssd_ops
