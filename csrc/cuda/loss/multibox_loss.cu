// Plan, two launches: rows_kernel (rows.cuh) leaves lse and the cross entropies; then in mine_kernel a block is an
// image. It stages the keys in shared memory, kAhead of them on their way to a thread, counts their first digits as
// they come, and selects the hardest negatives digit by digit. It writes the weights over the cross entropies and sums
// the losses of the image; the last block to finish adds up the images. Where there are too many priors for that,
// several blocks mine an image in more launches (segmented_mining.cuh). No order of threads or blocks shows in a
// result.
#include "cuda/loss/multibox_loss.h"
#include "cuda/loss/rows.cuh"
#include "cuda/loss/segmented_mining.cuh"

namespace ssd_ops {
namespace {

// What a block counts of its image, and the digits of its keys: of this step of the selection and of the next.
struct Counts {
  unsigned of_digit[2][kBins];
  unsigned positives, background;
};

// Stages the keys of the block, and counts their first digits.
template <typename T, typename Key>
__device__ void stage_keys(const LossTask& task, int64_t first, int count, Key* keys, Counts& counts) {
  constexpr int kAhead = 3, kLow = 8 * sizeof(Key) - kMiningDigit;
  const int64_t* labels = task.labels + first;
  const T* cross_entropy = static_cast<const T*>(task.weight) + first;
  for (int b = threadIdx.x; b < kBins; b += kMineThreads) counts.of_digit[0][b] = counts.of_digit[1][b] = 0;
  if (threadIdx.x == 0) counts.positives = counts.background = 0;
  __syncthreads();
  int positives = 0, background = 0;
#pragma unroll 1
  for (int from = threadIdx.x; from < count; from += kAhead * kMineThreads) {
    int64_t label[kAhead];
    T entropy[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int p = from + k * kMineThreads;
      label[k] = p < count ? labels[p] : -1;
      entropy[k] = p < count ? cross_entropy[p] : T(0);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int p = from + k * kMineThreads;
      if (p >= count) break;
      positives += label[k] > 0;
      background += label[k] == 0;
      keys[p] = mining_key(entropy[k], label[k]);
      if (label[k] == 0) atomicAdd(&counts.of_digit[0][static_cast<int>(keys[p] >> kLow)], 1u);
    }
  }
  positives = warp_sum(positives);
  background = warp_sum(background);
  if (threadIdx.x % kWarpSize != 0) return;
  if (positives > 0) atomicAdd(&counts.positives, static_cast<unsigned>(positives));
  if (background > 0) atomicAdd(&counts.background, static_cast<unsigned>(background));
}

// The cut that takes `wanted` keys, at least 1; so many are above 0. The first digits are counted. All threads of the
// block call this.
template <typename T, typename Key>
__device__ Chosen<T> select_highest(const Key* keys, int count, int64_t wanted, Counts& counts) {
  constexpr int kBits = 8 * sizeof(Key);
  Chosen<T> chosen{};
  Digit digit{};
  int now = 0;
  for (int low = kBits; low > 0; now ^= 1) {
    const int width = low < kMiningDigit ? low : kMiningDigit, above = low;
    low -= width;
    if (above != kBits) {
#pragma unroll 4
      for (int p = threadIdx.x; p < count; p += kMineThreads) {
        const Key key = keys[p];
        if (key >> (above % kBits) == chosen.cut.key)
          atomicAdd(&counts.of_digit[now][static_cast<int>(key >> low & ((Key(1) << width) - 1))], 1u);
      }
      __syncthreads();
    }
    const unsigned* highest = counts.of_digit[now] + upper_bin();
    digit = find_digit(highest[0], highest[-1], wanted);
    wanted = digit.left;
    chosen.cut.key = chosen.cut.key << width | static_cast<Key>(digit.value);
    for (int b = threadIdx.x; b < kBins; b += kMineThreads)
      counts.of_digit[now][b] = 0;  // for the digit after the next
  }
  chosen.cut.ties = wanted;
  chosen.every_tie = digit.every_tie;
  return chosen;
}

template <typename T>
__global__ void __launch_bounds__(kMineThreads, 1)
    mine_kernel(LossTask task, Mining mining, Division division, LossScratch scratch, T* loc_loss, T* cls_loss) {
  using Key = typename MiningKey<T>::type;
  __shared__ Counts counts;
  await_previous();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * task.priors;
  const int count = static_cast<int>(task.priors);
  Key* keys = dynamic_shared<Key>();
  stage_keys<T>(task, first, count, keys, counts);
  const int64_t of_batch = positives_of_batch(scratch, division);
  __syncthreads();
  const int64_t positives = counts.positives, background = counts.background;
  const T norm = loss_norm<T>(division, positives, of_batch);
  const int64_t wanted = negatives_wanted(mining, positives, background);
  Chosen<T> chosen{{~Key(0), 0}, false, 0, T(1) / norm};
  if (wanted > 0) {
    chosen = select_highest<T>(keys, count, wanted, counts);
    chosen.share = T(1) / norm;
  }
  double loc, cls;
  weigh_rows<T>(task, first, count, chosen, [&](int64_t p) { return keys[p]; }, &loc, &cls);
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
  constexpr int64_t kOther = 20 << 10;  // shared memory that is not for keys, with a margin
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
  return launch_next(mine_kernel<T>, grid_blocks(task.images, 1), kMineThreads, static_cast<size_t>(bytes), stream,
                     task, mining, division, scratch, loc, cls);
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
