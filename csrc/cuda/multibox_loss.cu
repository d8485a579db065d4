// Plan, two launches: rows_kernel (loss_rows.cuh) leaves lse and the cross entropies; then in mine_kernel a block is an
// image. It selects the hardest negatives digit by digit with a histogram in shared memory, where the keys are staged
// too, writes the weights over the cross entropies and sums the losses of the image; the last block to finish adds up
// the images. Where there are too many priors for that, several blocks mine an image in more launches (loss_parts.cuh).
// No order of threads or blocks shows in a result.
#include "cuda/loss_parts.cuh"
#include "cuda/loss_rows.cuh"
#include "cuda/multibox_loss.h"

namespace ssd_ops {
namespace {

// The cut that takes `wanted` keys, at least 1; so many are above 0. All threads of the block call this.
template <typename Key>
__device__ MiningCut<Key> select_highest(const Key* keys, int64_t priors, int64_t wanted, bool* every_tie) {
  constexpr int kBits = 8 * sizeof(Key);
  __shared__ unsigned counts[kBins];
  Key prefix = 0;
  for (int low = kBits; low > 0;) {
    const int width = low < kMiningDigit ? low : kMiningDigit, above = low;
    low -= width;
    for (int b = threadIdx.x; b < kBins; b += kMineThreads) counts[b] = 0;
    __syncthreads();
#pragma unroll 4
    for (int64_t p = threadIdx.x; p < priors; p += kMineThreads) {
      const Key key = keys[p];
      const bool candidate = above == kBits || key >> (above % kBits) == prefix;
      if (candidate) atomicAdd(&counts[static_cast<int>(key >> low & ((Key(1) << width) - 1))], 1u);
    }
    __syncthreads();
    const Digit digit = find_digit(counts, wanted);
    wanted = digit.left;
    prefix = prefix << width | static_cast<Key>(digit.value);
    *every_tie = digit.every_tie;
  }
  return {prefix, wanted};
}

template <typename T>
__global__ void __launch_bounds__(kMineThreads)
    mine_kernel(LossTask task, Mining mining, Division division, LossScratch scratch, T* loc_loss, T* cls_loss) {
  using Key = typename MiningKey<T>::type;
  __shared__ int64_t partial[kMineThreads / kWarpSize];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * task.priors;
  const int64_t* labels = task.labels + first;
  const T* cross_entropy = static_cast<const T*>(task.weight) + first;
  Key* keys = dynamic_shared<Key>();

  int64_t positives = 0, background = 0;
  for (int64_t p = threadIdx.x; p < task.priors; p += kMineThreads) {
    positives += labels[p] > 0;
    background += labels[p] == 0;
    keys[p] = mining_key(cross_entropy[p], labels[p]);
  }
  positives = block_sum(positives, partial);
  background = block_sum(background, partial);
  const T norm = loss_norm<T>(division, positives, positives_of_batch(scratch, division));

  Chosen<T> chosen{{~Key(0), 0}, false, 0, T(1) / norm};
  const int64_t wanted = negatives_wanted(mining, positives, background);
  if (wanted > 0) chosen.cut = select_highest(keys, task.priors, wanted, &chosen.every_tie);
  double loc, cls;
  weigh_rows<T>(task, first, task.priors, chosen, [&](int64_t p) { return keys[p]; }, &loc, &cls);
  leave_sums(scratch, loc, cls, norm, loc_loss, cls_loss);
}

// Bytes of keys that a block stages; mining is shared out among several blocks where an image has more.
constexpr int64_t kMostStaged = 128 << 10;

int64_t parts_of(const LossTask& task) { return task.images * ceil_div(task.priors, kPart); }

// Lays the arrays out one behind the other; returns the words of 64 bits that they take.
int64_t carve(const LossTask& task, void* memory, LossScratch* scratch) {
  int64_t used = 0;
  const auto take = [&](auto** array, int64_t words) {
    *array = reinterpret_cast<std::decay_t<decltype(*array)>>(static_cast<int64_t*>(memory) + used);
    used += words;
  };
  scratch->row_blocks = ceil_div(task.images * task.priors, rows_of_block(task.classes));
  scratch->zero_words = task.images * static_cast<int64_t>((sizeof(ImageMining) + kBins * sizeof(unsigned)) / 8);
  take(&scratch->finished, 1);
  take(&scratch->positives, scratch->row_blocks);
  take(&scratch->sums, 2 * parts_of(task));
  take(&scratch->part_counts, parts_of(task) * kBins / 2);
  take(&scratch->zeros, 0);
  take(&scratch->mining, task.images * static_cast<int64_t>(sizeof(ImageMining) / 8));
  take(&scratch->counts, task.images * kBins / 2);
  return used;
}

template <typename T>
cudaError_t launch_mining(const LossTask& task, const Mining& mining, const Division& division, LossScratch& scratch,
                          void* loc_loss, void* cls_loss, cudaStream_t stream) {
  constexpr int64_t kOther = 16 << 10;  // shared memory that is not for keys, with a margin
  int shared = 0;
  cudaError_t status = max_shared_bytes(&shared);
  if (status != cudaSuccess) return status;
  const int64_t bytes = task.priors * static_cast<int64_t>(sizeof(T));  // a key is as wide as T
  const bool staged = bytes <= kMostStaged && bytes <= shared - kOther;
  if (staged) scratch.zero_words = 0;
  status = launch_rows(task, scratch, stream);
  if (status != cudaSuccess) return status;
  auto *loc = static_cast<T*>(loc_loss), *cls = static_cast<T*>(cls_loss);
  if (!staged) return launch_parts(task, mining, division, scratch, loc, cls, stream);
  return launch(mine_kernel<T>, grid_blocks(task.images, 1), kMineThreads, static_cast<size_t>(bytes), stream, task,
                mining, division, scratch, loc, cls);
}

}  // namespace

int64_t loss_scratch_size(const LossTask& task) {
  LossScratch scratch;
  return carve(task, nullptr, &scratch);
}

int launch_multibox_loss(const LossTask& task, const Mining& mining, const Division& division, void* memory,
                         void* loc_loss, void* cls_loss, CUstream_st* stream) {
  LossScratch scratch;
  carve(task, memory, &scratch);
  if (task.logits_type == Dtype::f64)
    return launch_mining<double>(task, mining, division, scratch, loc_loss, cls_loss, stream);
  return launch_mining<float>(task, mining, division, scratch, loc_loss, cls_loss, stream);
}

}  // namespace ssd_ops
