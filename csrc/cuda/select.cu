// Plan: a block is an image. It takes its candidates page by page in order (see next_page.cuh; a page is in shared
// memory) and walks over them, 64 at a time, until D are kept: why that equals suppression class by class stands in
// cpu/select.h. Of the 64, eight threads each compare a box with the kept boxes of its class, which lie in the results,
// and with the boxes before it; then one warp settles who is kept. So no number of classes, rows or detections meets a
// limit of shared memory. An image whose candidates within the bound (select.h) do not suffice takes part again.
#include "cuda/load.cuh"
#include "cuda/next_page.cuh"
#include "cuda/select.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 512, kTile = 64, kLanes = kThreads / kTile, kPage = 1024;

template <typename T>
struct Tile {
  Box<T> boxes[kTile];
  T areas[kTile];
  int64_t labels[kTile];
  unsigned rows[kTile];
  bool allowed[kTile];
  unsigned long long before[kTile];  // bit j: box j < i of the tile suppresses box i
  unsigned long long kept;
};

template <typename T>
__device__ Box<T> load_candidate(const BoxSource<T>& source, const cpu::SelectTask<T>& task, int64_t image,
                                 unsigned index, int64_t* label, unsigned* candidate_row) {
  const int64_t stride = source.rows != nullptr ? source.room : task.rows;
  *label = index / stride;
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

// The boxes of the tile, and which of them are among the first of their class. Those that are too small get the label
// -1.
template <typename T>
__device__ void load_tile(Tile<T>& tile, const candidate_t<T>* page, int count, const BoxSource<T>& source,
                          const cpu::SelectTask<T>& task, int64_t image, int* met) {
  const int i = threadIdx.x;
  if (i < count) {
    tile.boxes[i] = load_candidate(source, task, image, index_of(page[i]), &tile.labels[i], &tile.rows[i]);
    tile.areas[i] = area(tile.boxes[i]);
    tile.allowed[i] = !too_small(tile.boxes[i], task.least_side);
    if (!tile.allowed[i]) tile.labels[i] = -1;
  }
  __syncthreads();
  const int b = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  int same_before = 0, same_behind = 0;
  for (int k = lane; b < count && k < count; k += kLanes) {
    const bool same = tile.labels[k] == tile.labels[b];
    same_before += same && k < b ? 1 : 0;
    same_behind += same && k > b ? 1 : 0;
  }
  for (int step = 1; step < kLanes; step *= 2) {
    same_before += __shfl_xor_sync(kFullMask, same_before, step);
    same_behind += __shfl_xor_sync(kFullMask, same_behind, step);
  }
  const bool counts = lane == 0 && b < count && tile.allowed[b];
  const int met_before = counts ? met[tile.labels[b]] : 0;
  if (counts) tile.allowed[b] = met_before + same_before < task.candidates_per_class;
  __syncthreads();
  if (counts && same_behind == 0) met[tile.labels[b]] = met_before + same_before + 1;
}

// Settles which boxes of the tile are kept; `found` boxes are kept already.
template <typename T>
__device__ void suppress_tile(Tile<T>& tile, int count, int64_t found, int64_t image, const cpu::SelectTask<T>& task) {
  const int i = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  bool alive = i < count && tile.allowed[i];
  unsigned long long before = 0;
  if (alive) {
    const Box<T> box = tile.boxes[i];
    const T box_area = tile.areas[i];
    const int64_t label = tile.labels[i];
    const int64_t* labels = task.out.labels + image * task.out.most;
    const Box<T>* kept = reinterpret_cast<const Box<T>*>(task.out.boxes) + image * task.out.most;
    for (int64_t k = lane; alive && k < found; k += kLanes) {
      if (labels[k] != label) continue;
      const Box<T> other = kept[k];
      alive = !suppresses(other, box, area(other), box_area, task.rule);
    }
    for (int j = lane; j < i; j += kLanes) {
      if (tile.labels[j] == label && suppresses(tile.boxes[j], box, tile.areas[j], box_area, task.rule))
        before |= 1ull << j;
    }
  }
  for (int step = 1; step < kLanes; step *= 2) {
    before |= __shfl_xor_sync(kFullMask, before, step);
    const int other = __shfl_xor_sync(kFullMask, static_cast<int>(alive), step);
    alive = alive && other != 0;
  }
  __syncwarp();  // all lanes of the box have read what is replaced here
  if (lane == 0) {
    tile.allowed[i] = alive;
    tile.before[i] = before;
  }
}

// Kept unless a kept one before suppresses it, repeated until nothing changes: the one greedy solution.
template <typename T>
__device__ void settle_tile(Tile<T>& tile) {
  const int low = threadIdx.x, high = threadIdx.x + kWarpSize;
  unsigned long long now = ~0ull, last;
  do {
    last = now;
    const unsigned first = __ballot_sync(kFullMask, tile.allowed[low] && (tile.before[low] & last) == 0);
    const unsigned second = __ballot_sync(kFullMask, tile.allowed[high] && (tile.before[high] & last) == 0);
    now = static_cast<unsigned long long>(second) << kWarpSize | first;
  } while (now != last);
  if (threadIdx.x == 0) tile.kept = now;
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
    select_kernel(CandidateLists lists, BoxSource<T> source, cpu::SelectTask<T> task) {
  using C = candidate_t<T>;
  __shared__ C page[kPage];
  __shared__ C last;
  __shared__ Tile<T> tile;
  if (lists.second && lists.again[blockIdx.x] == 0) return;
  const int64_t image = lists.first + blockIdx.x, most = task.out.most;
  const C* list = static_cast<const C*>(lists.items) + blockIdx.x * lists.capacity;
  const int64_t total = lists.counts[blockIdx.x] < lists.capacity ? lists.counts[blockIdx.x] : lists.capacity;
  int* met = lists.met + blockIdx.x * task.classes;
  Box<T>* boxes = reinterpret_cast<Box<T>*>(task.out.boxes) + image * most;
  const C best = make_candidate(T(1), 0u), worst = make_candidate(task.floor, ~0u);  // of most scores
  const unsigned bound = lists.bounds[blockIdx.x];
  const number_t<C> limit = last_with_head<C>(bound);
  int64_t found = 0, seen = 0;
  for (bool more = true; more && found < most && seen < total;) {
    const int page_count =
        next_page<kThreads>(list, total, seen > 0 ? &last : nullptr, best, worst, page, kPage, limit);
    more = page_count >= kPage / 2;
    for (int first = 0; first < page_count && found < most; first += kTile) {
      const int count = page_count - first < kTile ? page_count - first : kTile;
      load_tile(tile, page + first, count, source, task, image, met);
      __syncthreads();
      if (with_suppression) {
        suppress_tile(tile, count, found, image, task);
        __syncthreads();
        if (threadIdx.x < kWarpSize) settle_tile(tile);
      } else if (threadIdx.x == 0) {
        tile.kept = count == kTile ? ~0ull : (1ull << count) - 1;
      }
      __syncthreads();
      const int i = threadIdx.x;
      const unsigned long long kept = tile.kept;
      const int64_t place = i < kTile ? found + __popcll(kept & ((1ull << i) - 1)) : most;
      if (i < count && (kept >> i & 1) != 0 && place < most) {
        boxes[place] = tile.boxes[i];
        task.out.scores[image * most + place] = score_of(page[first + i]);
        task.out.labels[image * most + place] = tile.labels[i];
        task.out.rows[image * most + place] = tile.rows[i];
      }
      found += __popcll(kept);
      if (found > most) found = most;
      __syncthreads();
    }
    seen += page_count;
    if (threadIdx.x == 0 && page_count > 0) last = page[page_count - 1];
    __syncthreads();
  }
  if (found < most && bound != kNoBound) return begin_again(lists, blockIdx.x, task.classes);
  for (int64_t d = found + threadIdx.x; d < most; d += kThreads) {
    boxes[d] = Box<T>{};
    task.out.scores[image * most + d] = T(0);
    task.out.labels[image * most + d] = 0;
    task.out.rows[image * most + d] = 0;
  }
  if (threadIdx.x == 0) task.out.counts[image] = found;
}

}  // namespace

template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const cpu::SelectTask<T>& task,
                  bool with_suppression, CUstream_st* stream) {
  auto* kernel = with_suppression ? select_kernel<true, T> : select_kernel<false, T>;
  return launch(kernel, grid_blocks(lists.images, 1), kThreads, 0, stream, lists, source, task);
}

template int launch_select<float>(const CandidateLists&, const BoxSource<float>&, const cpu::SelectTask<float>&, bool,
                                  CUstream_st*);
template int launch_select<double>(const CandidateLists&, const BoxSource<double>&, const cpu::SelectTask<double>&,
                                   bool, CUstream_st*);

}  // namespace ssd_ops
