// Plan: in collect_logits_kernel a group of lanes takes kRows priors at once, a lane every kGroup-th class, and a warp
// has all of their logits on the way before it waits for the first. A prior is done where no class leads the background
// far enough for the threshold. The warp reads the logits of the others again (they are in the cache), a lane every
// 32nd class, takes the softmax and appends the scores that count to the candidates of the image. select_kernel
// (select.cu) does the rest, a block for each image, and decodes only the boxes it looks at.
#include <limits>

#include "cuda/common/load.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/detect.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kRows = 4;

// Priors that a warp takes at once.
template <int kGroup>
__host__ __device__ constexpr int rows_of_warp() {
  return kWarpSize / kGroup * kRows;
}

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float rough_exponential(float x) {
#ifdef SSD_OPS_EMULATED
  return expf(x);
#else
  return __expf(x);
#endif
}
__device__ __forceinline__ float magnitude(float x) { return fabsf(x); }
__device__ __forceinline__ double magnitude(double x) { return fabs(x); }

template <typename T>
struct Wanted {
  T floor, lead, epsilon;  // see least_lead()
  bool best_only;

  // A class with a logit that is not above this has no score of `floor`.
  __device__ __forceinline__ T limit(T background) const {
    const T near = background + lead - (magnitude(background) + magnitude(lead)) * epsilon;
    return best_only ? greater(near, background) : near;
  }
};

// A lane's share of the logits of one prior. kEach: how many these are, or 0 for any number: they are then read anew
// each time.
template <int kEach, typename In, typename T = compute_t<In>>
struct Row {
  const In* logits;
  int classes;
  T held[kEach > 0 ? kEach : 1];

  __device__ __forceinline__ void load(const In* from, int count) {
    logits = from;
    classes = count;
    if constexpr (kEach > 0) {
#pragma unroll
      for (int k = 0; k < kEach; ++k) held[k] = read(k);
    }
  }
  __device__ __forceinline__ int steps() const {
    return kEach > 0 ? kEach : static_cast<int>(ceil_div(classes, kWarpSize));
  }
  __device__ __forceinline__ int label(int k) const {
    return k * kWarpSize + static_cast<int>(threadIdx.x) % kWarpSize;
  }
  __device__ __forceinline__ T read(int k) const { return label(k) < classes ? widen(logits[label(k)]) : -T(INFINITY); }
  __device__ __forceinline__ T operator[](int k) const {
    if constexpr (kEach > 0) return held[k];
    return read(k);
  }
};

// Whether no class of a prior can have a score of `floor`, as none is above 1 over the sum of exponentials; the lanes
// of a group have its logits. An estimate with a margin: never where it is close, nor with a NaN among the logits.
template <int kGroup, int kEach>
__device__ __forceinline__ bool surely_below(const float (&x)[kEach], float floor) {
  float top = x[0], sum = 0;
#pragma unroll
  for (int k = 1; k < kEach; ++k) top = greater(x[k], top);
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) top = greater(__shfl_xor_sync(kFullMask, top, step), top);
#pragma unroll
  for (int k = 0; k < kEach; ++k) sum += rough_exponential(x[k] - top);
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullMask, sum, step);
  return sum * floor > 1.01f;
}

// Which of `count` priors, 32 / kGroup * kRows at most, have a class that may count: a bit for each, the same for all
// lanes. Group g has the priors from g * kRows on. With a NaN among the logits either answer is right.
template <int kGroup, int kEach, typename In, typename T>
__device__ __forceinline__ unsigned may_count(const In* logits, int count, int classes, const Wanted<T>& wanted,
                                              const CandidateLists& lists, int64_t slot) {
  constexpr int kGroups = kWarpSize / kGroup;
  const int lane = threadIdx.x % kGroup, group = threadIdx.x % kWarpSize / kGroup;
  T x[kRows][kEach];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int prior = group * kRows + r;
    const In* row = logits + static_cast<int64_t>(prior < count ? prior : 0) * classes + lane;
#pragma unroll
    for (int k = 0; k < kEach; ++k) x[r][k] = k * kGroup + lane < classes ? widen(row[k * kGroup]) : -T(INFINITY);
  }
  unsigned lanes[kRows], any = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const T background = __shfl_sync(kFullMask, x[r][0], 0, kGroup);
    T highest = lane > 0 ? x[r][0] : -T(INFINITY);
#pragma unroll
    for (int k = 1; k < kEach; ++k) highest = greater(x[r][k], highest);
    lanes[r] = __ballot_sync(kFullMask, highest > wanted.limit(background) && group * kRows + r < count);
    any |= lanes[r];
  }
  if (any == 0) return 0;
  if constexpr (sizeof(T) == sizeof(float)) {
    const T floor = raised_floor(lists, slot, wanted.floor);
    if (floor > wanted.floor) {  // mostly far above: the scores that count are the best of many
#pragma unroll
      for (int r = 0; r < kRows; ++r) lanes[r] &= __ballot_sync(kFullMask, !surely_below<kGroup>(x[r], floor));
    }
  }
  unsigned counting = 0;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const unsigned of_group = lanes[r] >> (g * kGroup) & (kFullMask >> (kWarpSize - kGroup));
      counting |= (of_group != 0 ? 1u : 0u) << (g * kRows + r);
    }
  }
  return counting;
}

// Likewise of priors with any number of classes, up to kRows.
template <typename In, typename T>
__device__ __forceinline__ unsigned long_rows_may_count(const In* logits, int count, int classes,
                                                        const Wanted<T>& wanted) {
  unsigned counting = 0;
  for (int r = 0; r < count; ++r) {
    const In* row = logits + static_cast<int64_t>(r) * classes;
    T highest = -T(INFINITY);
#pragma unroll 4
    for (int c = 1 + static_cast<int>(threadIdx.x) % kWarpSize; c < classes; c += kWarpSize)
      highest = greater(static_cast<T>(widen(row[c])), highest);
    counting |= (__any_sync(kFullMask, highest > wanted.limit(widen(row[0]))) != 0 ? 1u : 0u) << r;
  }
  return counting;
}

// The lowest class with the highest logit, for all lanes.
template <int kEach, typename In, typename T>
__device__ int best_label(const Row<kEach, In>& row, T top) {
  int best = row.classes;
#pragma unroll
  for (int k = 0; k < row.steps(); ++k)
    if (row[k] == top && row.label(k) < best) best = row.label(k);
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const int other = __shfl_xor_sync(kFullMask, best, step);
    best = other < best ? other : best;
  }
  return best;
}

// Appends the scores of one prior that count. A NaN or inf among the logits makes the sum NaN, and then none does.
template <int kEach, typename In, typename T>
__device__ __forceinline__ void append_scores(const Row<kEach, In>& row, const Wanted<T>& wanted,
                                              const CandidateLists& lists, int64_t slot, unsigned rows,
                                              unsigned prior) {
  constexpr int kChunk = kEach > 0 ? kEach : 1;  // steps that share an atomic
  const T floor = raised_floor(lists, slot, wanted.floor);
  T top = row[0], sum = 0;
#pragma unroll
  for (int k = 1; k < row.steps(); ++k) top = greater(row[k], top);
  for (int step = kWarpSize / 2; step > 0; step /= 2) top = greater(__shfl_xor_sync(kFullMask, top, step), top);
#pragma unroll
  for (int k = 0; k < row.steps(); ++k) sum += row.label(k) < row.classes ? exponential(row[k] - top) : T(0);
  for (int step = kWarpSize / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kFullMask, sum, step);
  if (sum * floor > T(1) + 4 * wanted.epsilon) return;  // no score of this prior is above 1 / sum
  const int best = wanted.best_only ? best_label(row, top) : 0;
  for (int first = 0; first < row.steps(); first += kChunk) {
    T scores[kChunk];
    unsigned lanes[kChunk];
    int count = 0;
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      const int label = row.label(first + k);
      const bool counts = label > 0 && label < row.classes && (!wanted.best_only || label == best);
      scores[k] = counts ? exponential(row[first + k] - top) / sum : T(0);
      lanes[k] = __ballot_sync(kFullMask, counts && scores[k] >= floor);
      count += __popc(lanes[k]);
    }
    if (count == 0) continue;
    const int64_t begin = reserve(lists, slot, count);
    int64_t place = begin;
#pragma unroll
    for (int k = 0; k < kChunk; ++k) {
      add(lists, slot, place, lanes[k], scores[k], static_cast<unsigned>(row.label(first + k)) * rows + prior);
      place += __popc(lanes[k]);
    }
    tighten(lists, slot, begin, count);
  }
}

// kGroup lanes with kEach classes each hold the logits of a prior; kEach = 0: rows of any length.
template <int kGroup, int kEach, typename In, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    collect_logits_kernel(const In* logits, CandidateLists lists, int64_t rows, int classes, Wanted<T> wanted) {
  constexpr int kOfWarp = rows_of_warp<kGroup>();
  await_previous();
  if (lists.second && lists.again[lists.images] == 0) return;
  for (int64_t slot = blockIdx.x; slot < lists.images; slot += gridDim.x) {
    if (lists.second && lists.again[slot] == 0) continue;
    int64_t first = (static_cast<int64_t>(blockIdx.y) * kWarps + threadIdx.x / kWarpSize) * kOfWarp;
    for (; first < rows; first += static_cast<int64_t>(gridDim.y) * kWarps * kOfWarp) {
      const In* from = logits + ((lists.first + slot) * rows + first) * classes;
      const int count = static_cast<int>(rows - first < kOfWarp ? rows - first : kOfWarp);
      unsigned counting = kFullMask >> (kWarpSize - count);
      if (wanted.floor > T(0)) {
        if constexpr (kEach > 0) {
          counting = may_count<kGroup, kEach>(from, count, classes, wanted, lists, slot);
        } else {
          counting = long_rows_may_count(from, count, classes, wanted);
        }
      }
      for (; counting != 0; counting &= counting - 1) {
        const int r = __ffs(static_cast<int>(counting)) - 1;
        Row<kEach == 0 ? 0 : (kGroup * kEach + kWarpSize - 1) / kWarpSize, In> row;
        row.load(from + static_cast<int64_t>(r) * classes, classes);
        append_scores(row, wanted, lists, slot, static_cast<unsigned>(rows), static_cast<unsigned>(first + r));
      }
    }
  }
}

template <int kGroup, int kEach, typename In, typename T>
cudaError_t launch_collect(const SelectTask<T>& task, const CandidateLists& lists, const Wanted<T>& wanted,
                           cudaStream_t stream) {
  const dim3 grid = collect_grid(lists, ceil_div(task.rows, kWarps * rows_of_warp<kGroup>()));
  return launch_next(collect_logits_kernel<kGroup, kEach, In, T>, grid, kThreads, 0, stream,
                     static_cast<const In*>(task.scores), lists, task.rows, static_cast<int>(task.classes), wanted);
}

// See cpu/select/detect.cpp.
template <typename T>
T least_lead(T floor) {
  const T lowered = floor * T(1 - 1e-4);
  if (!(lowered > T(0))) return -std::numeric_limits<T>::infinity();
  return lowered < T(1) ? std::log(lowered / (T(1) - lowered)) : std::numeric_limits<T>::infinity();
}

}  // namespace

template <typename T>
int launch_detect(const SelectTask<T>& task, const BoxSource<T>& source, bool best_only, int64_t batch, void* workspace,
                  CUstream_st* stream) {
  const CandidateLists lists =
      candidate_lists(workspace, batch, task.classes, detect_capacity(task, best_only), true, task.floor);
  const Wanted<T> wanted{task.floor, least_lead(task.floor), 4 * std::numeric_limits<T>::epsilon(), best_only};
  return collect_and_select(lists, batch, source, task, true, stream, [&](const CandidateLists& group) {
    return dispatch_dtype(task.dtype, [&](auto type) {
      using In = decltype(type);
      if constexpr (std::is_same_v<compute_t<In>, T>) {
        if (task.classes <= 8) return launch_collect<4, 2, In>(task, group, wanted, stream);
        if (task.classes <= 24) return launch_collect<8, 3, In>(task, group, wanted, stream);
        if (task.classes <= 96) return launch_collect<16, 6, In>(task, group, wanted, stream);
        if (task.classes <= 256) return launch_collect<32, 8, In>(task, group, wanted, stream);
        return launch_collect<32, 0, In>(task, group, wanted, stream);
      } else {
        return cudaErrorInvalidValue;
      }
    });
  });
}

template int launch_detect<float>(const SelectTask<float>&, const BoxSource<float>&, bool, int64_t, void*,
                                  CUstream_st*);
template int launch_detect<double>(const SelectTask<double>&, const BoxSource<double>&, bool, int64_t, void*,
                                   CUstream_st*);

}  // namespace ssd_ops
