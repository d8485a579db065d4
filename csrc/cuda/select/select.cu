// Plan: a block is an image. It takes its candidates page by page in order (see next_chunk.cuh; a page is in shared
// memory) and walks over them, a tile at a time, until D are kept: why that equals suppression class by class stands in
// cpu/select/select.h. The threads compare each box of the tile with the boxes kept before, which lie in the results
// and pass through shared memory, and with the boxes before it in the tile, a bit for each that suppresses it; then one
// warp settles who is kept. So no number of classes, rows or detections meets a limit of shared memory. An image whose
// candidates within the bound (select.h) do not suffice takes part again.
#include "cuda/common/load.cuh"
#include "cuda/select/next_chunk.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 512, kPage = 1024;

// Boxes that are settled together.
template <typename T>
struct Tile {
  static constexpr int kSize = sizeof(T) == sizeof(float) ? 256 : 128, kWords = kSize / kWarpSize;
  static constexpr int kLanes = kThreads / kSize;  // threads that compare one box, in different warps

  Box<T> boxes[kSize];
  T areas[kSize];
  unsigned labels[kSize];  // kNoLabel: too small
  unsigned rows[kSize];
  unsigned before[kWords][kSize];              // before[w][i], bit b: box 32 w + b < i of the tile suppresses box i
  unsigned allowed[kWords], kept[kWords];      // a bit for each box
  int same_before[kSize], same_behind[kSize];  // boxes of the tile with the same label
  // Boxes that were kept before the tile, so many at a time.
  Box<T> rivals[kSize];
  unsigned rival_labels[kSize];
};
constexpr unsigned kNoLabel = ~0u;

template <typename T>
__device__ Box<T> load_candidate(const BoxSource<T>& source, const SelectTask<T>& task, int64_t image, unsigned index,
                                 unsigned* label, unsigned* candidate_row) {
  const int64_t stride = source.rows != nullptr ? source.room : task.rows;
  *label = static_cast<unsigned>(index / stride);
  const int64_t row = source.rows != nullptr ? source.rows[image * task.classes * stride + index] : index % stride;
  *candidate_row = static_cast<unsigned>(row);
  const int64_t place = image * task.rows + row;
  Box<T> box = source.boxes[source.by_class ? place * task.classes + *label : place];
  if (source.priors != nullptr) box = decode(box, source.priors[row], CodeType::center_size, source.variances);
  if (source.clip) {
    const auto clipped = [](T x) { return x < T(0) ? T(0) : x > T(1) ? T(1) : x; };
    box = {clipped(box.x1), clipped(box.y1), clipped(box.x2), clipped(box.y2)};
  }
  return box;
}

// Loads the boxes of the tile.
template <typename T>
__device__ void load_tile(Tile<T>& tile, const candidate_t<T>* page, int count, const BoxSource<T>& source,
                          const SelectTask<T>& task, int64_t image) {
  const int i = threadIdx.x;
  if (i < Tile<T>::kSize) {
    unsigned label = kNoLabel, row = 0;
    Box<T> box{};
    if (i < count) box = load_candidate(source, task, image, index_of(page[i]), &label, &row);
    tile.boxes[i] = box;
    tile.areas[i] = area(box);
    tile.rows[i] = row;
    tile.labels[i] = too_small(box, task.least_side) ? kNoLabel : label;
    tile.same_before[i] = tile.same_behind[i] = 0;
  }
  if (i < Tile<T>::kWords) tile.allowed[i] = ~0u;
  __syncthreads();
}

// Compares the boxes of the tile with those before them, and counts those of equal label.
template <bool with_suppression, typename T>
__device__ void compare_tile(Tile<T>& tile, int count, const SuppressionRule<T>& rule) {
  constexpr int kSize = Tile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = tile.boxes[i];
  const T box_area = tile.areas[i];
  const unsigned label = tile.labels[i];
  int same_before = 0, same_behind = 0;
  for (int w = threadIdx.x / kSize; w < Tile<T>::kWords; w += Tile<T>::kLanes) {
    unsigned same = 0, bits = 0;
    if (i < count && label != kNoLabel && w * kWarpSize < count) {
#pragma unroll 8
      for (int k = 0; k < kWarpSize; ++k) same |= (tile.labels[w * kWarpSize + k] == label ? 1u : 0u) << k;
    }
    const int first = i - w * kWarpSize;  // the bit of box i
    const unsigned earlier = first <= 0 ? 0 : first < kWarpSize ? (1u << first) - 1 : ~0u;
    same_before += __popc(same & earlier);
    same_behind += __popc(same & ~earlier);  // and box i itself
    for (unsigned rest = with_suppression ? same & earlier : 0; rest != 0; rest &= rest - 1) {
      const int j = w * kWarpSize + __ffs(static_cast<int>(rest)) - 1;
      if (suppresses(tile.boxes[j], box, tile.areas[j], box_area, rule)) bits |= rest & (0 - rest);
    }
    tile.before[w][i] = bits;
  }
  if (same_before > 0) atomicAdd(&tile.same_before[i], same_before);
  if (same_behind > 0) atomicAdd(&tile.same_behind[i], same_behind);
}

// Takes out the boxes that one of the `found` kept ones suppresses.
template <typename T>
__device__ void suppress_by_kept(Tile<T>& tile, int count, int64_t found, int64_t image, const SelectTask<T>& task) {
  constexpr int kSize = Tile<T>::kSize;
  const int i = threadIdx.x % kSize;
  const Box<T> box = tile.boxes[i];
  const T box_area = tile.areas[i];
  const unsigned label = i < count ? tile.labels[i] : kNoLabel;
  const Box<T>* kept = reinterpret_cast<const Box<T>*>(task.out.boxes) + image * task.out.most;
  bool alive = true;
  for (int64_t from = 0; from < found; from += kSize) {
    const int here = static_cast<int>(found - from < kSize ? found - from : kSize);
    __syncthreads();  // all are done with the rivals before
    if (static_cast<int>(threadIdx.x) < here) {
      tile.rivals[threadIdx.x] = kept[from + threadIdx.x];
      tile.rival_labels[threadIdx.x] =
          static_cast<unsigned>(task.out.labels[image * task.out.most + from + threadIdx.x]);
    }
    __syncthreads();
    for (int k = threadIdx.x / kSize; alive && label != kNoLabel && k < here; k += Tile<T>::kLanes) {
      if (tile.rival_labels[k] != label) continue;
      const Box<T> rival = tile.rivals[k];
      alive = !suppresses(rival, box, area(rival), box_area, task.rule);
    }
  }
  if (!alive) atomicAnd(&tile.allowed[i / kWarpSize], ~(1u << (i % kWarpSize)));
}

// Takes out the boxes that do not count: too small ones, and those that are not among the first of their class. `met`,
// of which classes so many boxes came before, is null where that does not matter.
template <typename T>
__device__ void limit_classes(Tile<T>& tile, int count, int64_t candidates_per_class, int* met) {
  const int i = threadIdx.x;
  if (i >= Tile<T>::kSize) return;
  bool counts = i < count && tile.labels[i] != kNoLabel;
  int met_before = 0, same_before = 0;
  if (counts) {
    met_before = met != nullptr ? met[tile.labels[i]] : 0;
    same_before = tile.same_before[i];
  }
  const unsigned within = __ballot_sync(kFullMask, counts && met_before + same_before < candidates_per_class);
  if (i % kWarpSize == 0) atomicAnd(&tile.allowed[i / kWarpSize], within);
}

// Counts the boxes of the tile to what was met of their classes.
template <typename T>
__device__ void count_met(const Tile<T>& tile, int count, int* met) {
  const int i = threadIdx.x;
  // The first of its class in the tile counts for all of them.
  if (i < count && i < Tile<T>::kSize && tile.labels[i] != kNoLabel && tile.same_before[i] == 0)
    met[tile.labels[i]] += tile.same_behind[i];
}

// Kept unless a kept one before suppresses it, repeated until nothing changes: the one greedy solution. One warp.
template <typename T>
__device__ void settle_tile(Tile<T>& tile) {
  constexpr int kWords = Tile<T>::kWords;
  const int lane = threadIdx.x;
  if (lane < kWords) tile.kept[lane] = tile.allowed[lane];
  bool changed = true;
  while (changed) {
    __syncwarp();
    unsigned now[kWords];
#pragma unroll
    for (int w = 0; w < kWords; ++w) {
      const int i = w * kWarpSize + lane;
      unsigned blockers = 0;
#pragma unroll
      for (int v = 0; v <= w; ++v) blockers |= tile.before[v][i] & tile.kept[v];
      now[w] = __ballot_sync(kFullMask, blockers == 0) & tile.allowed[w];
    }
    changed = false;
#pragma unroll
    for (int w = 0; w < kWords; ++w) changed = changed || now[w] != tile.kept[w];
    __syncwarp();
#pragma unroll
    for (int w = 0; w < kWords; ++w)
      if (lane == w) tile.kept[w] = now[w];
  }
}

// Writes out the boxes of the tile that are kept, behind the `found` before; returns how many there are then.
template <typename T>
__device__ int64_t write_kept(const Tile<T>& tile, const candidate_t<T>* page, int64_t found, int64_t image,
                              const SelectTask<T>& task) {
  const int64_t most = task.out.most;
  const int i = threadIdx.x, word = i / kWarpSize;
  const unsigned bit = 1u << (i % kWarpSize);
  int before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < Tile<T>::kWords; ++w) {
    const unsigned kept = tile.kept[w];
    if (w < word) before += __popc(kept);
    if (w == word) before += __popc(kept & (bit - 1));
    all += __popc(kept);
  }
  const int64_t place = found + before;
  if (word < Tile<T>::kWords && (tile.kept[word] & bit) != 0 && place < most) {
    reinterpret_cast<Box<T>*>(task.out.boxes)[image * most + place] = tile.boxes[i];
    task.out.scores[image * most + place] = score_of(page[i]);
    task.out.labels[image * most + place] = tile.labels[i];
    task.out.rows[image * most + place] = tile.rows[i];
  }
  return found + all < most ? found + all : most;
}

// Empties the list of an image, which then takes part in the second round.
__device__ void begin_again(const CandidateLists& lists, int64_t slot, int64_t classes) {
  for (int64_t c = threadIdx.x; c < classes; c += kThreads) lists.met[slot * classes + c] = 0;
  if (threadIdx.x != 0) return;
  lists.counts[slot] = 0;
  lists.bounds[slot] = kNoBound;
  lists.again[slot] = 1;
  atomicAdd(&lists.again[lists.images], 1u);
}

template <bool with_suppression, typename T>
__global__ void __launch_bounds__(kThreads, 1)
    select_kernel(CandidateLists lists, BoxSource<T> source, SelectTask<T> task) {
  using C = candidate_t<T>;
  __shared__ C page[kPage];
  __shared__ C last;
  __shared__ Tile<T> tile;
  await_previous();
  if (lists.second && lists.again[blockIdx.x] == 0) return;
  const int64_t image = lists.first + blockIdx.x, most = task.out.most;
  const C* list = static_cast<const C*>(lists.items) + blockIdx.x * lists.capacity;
  const int64_t total = lists.counts[blockIdx.x] < lists.capacity ? lists.counts[blockIdx.x] : lists.capacity;
  int* met = lists.met + blockIdx.x * task.classes;
  const bool limited = total > task.candidates_per_class;                            // else no class has too many
  const C best = make_candidate(T(1), 0u), worst = make_candidate(task.floor, ~0u);  // of most scores
  const unsigned bound = lists.bounds[blockIdx.x];
  const number_t<C> limit = last_with_head<C>(bound);
  int64_t found = 0, seen = 0;
  for (bool more = true; more && found < most && seen < total;) {
    const int page_count =
        next_page<kThreads>(list, total, seen > 0 ? &last : nullptr, best, worst, page, kPage, limit);
    more = page_count >= kPage / 2;
    for (int first = 0; first < page_count && found < most; first += Tile<T>::kSize) {
      const int count = page_count - first < Tile<T>::kSize ? page_count - first : Tile<T>::kSize;
      load_tile(tile, page + first, count, source, task, image);
      compare_tile<with_suppression>(tile, count, task.rule);
      if (with_suppression) suppress_by_kept(tile, count, found, image, task);
      __syncthreads();
      limit_classes(tile, count, limited ? task.candidates_per_class : total, limited ? met : nullptr);
      __syncthreads();
      if (limited) count_met(tile, count, met);
      if (threadIdx.x < kWarpSize) settle_tile(tile);
      __syncthreads();
      found = write_kept(tile, page + first, found, image, task);
      __syncthreads();
    }
    seen += page_count;
    if (threadIdx.x == 0 && page_count > 0) last = page[page_count - 1];
    __syncthreads();
  }
  if (found < most && bound != kNoBound) return begin_again(lists, blockIdx.x, task.classes);
  for (int64_t d = found + threadIdx.x; d < most; d += kThreads) {
    reinterpret_cast<Box<T>*>(task.out.boxes)[image * most + d] = Box<T>{};
    task.out.scores[image * most + d] = T(0);
    task.out.labels[image * most + d] = 0;
    task.out.rows[image * most + d] = 0;
  }
  if (threadIdx.x == 0) task.out.counts[image] = found;
}

}  // namespace

template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const SelectTask<T>& task,
                  bool with_suppression, CUstream_st* stream) {
  auto* kernel = with_suppression ? select_kernel<true, T> : select_kernel<false, T>;
  return launch_next(kernel, grid_blocks(lists.images, 1), kThreads, 0, stream, lists, source, task);
}

template int launch_select<float>(const CandidateLists&, const BoxSource<float>&, const SelectTask<float>&, bool,
                                  CUstream_st*);
template int launch_select<double>(const CandidateLists&, const BoxSource<double>&, const SelectTask<double>&, bool,
                                   CUstream_st*);

}  // namespace ssd_ops
