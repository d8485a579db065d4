// Kept boxes push: those behind that they suppress die. The plan stands in nms.cu.
#pragma once

#include "cuda/block.cuh"
#include "cuda/nms_cells.cuh"
#include "suppression.h"

namespace ssd_ops {
namespace {

constexpr int kAtOnce = 4;  // boxes that a thread is compared with between two branches

// Writes the ranks of the next living boxes to the tile.
template <typename T>
__device__ void choose_tile(const NmsWork<T>& work, int64_t n) {
  const int64_t from = work.state->next;
  int chosen = 0;
  for (int64_t first = from / kWarpSize; first * kWarpSize < n && chosen < kTile; first += kThreads) {
    const int64_t word = first + threadIdx.x, rank = word * kWarpSize;
    unsigned alive = rank < n ? ~work.dead[word] : 0;
    if (rank < n && n - rank < kWarpSize) alive &= (1u << (n - rank)) - 1;
    if (rank < from) alive &= from - rank < kWarpSize ? ~0u << (from - rank) : 0;
    int total;
    int place = chosen + block_sum_before(__popc(alive), &total);
    for (; alive != 0 && place < kTile; alive &= alive - 1) work.tile[place++] = rank + __ffs(alive) - 1;
    chosen += total;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    work.state->tile = chosen < kTile ? chosen : kTile;
    work.state->next = chosen < kTile ? n : work.tile[kTile - 1] + 1;
  }
}

// Boxes of the last tile that were kept, a chunk of them in shared memory.
template <typename T>
struct Pushed {
  Box<T> boxes[kThreads + kAtOnce];
  T areas[kThreads + kAtOnce];
  int64_t classes[kThreads + kAtOnce];
};

// Loads those of the kThreads pushed boxes from `first` on that may suppress one inside `around`; returns how many.
template <bool has_classes, bool by_cell, typename T>
__device__ int load_pushed(const NmsWork<T>& work, Pushed<T>& pushed, int first, int count, const Box<T>& around) {
  const int i = first + static_cast<int>(threadIdx.x);
  Box<T> box{1, 1, 0, 0};
  if (i < count) box = work.pushed[i];
  int place = static_cast<int>(threadIdx.x), total = count - first < kThreads ? count - first : kThreads;
  bool holds = i < count;
  if (by_cell) {
    holds = holds && box.x2 > around.x1 && box.x1 < around.x2 && box.y2 > around.y1 && box.y1 < around.y2;
    place = block_sum_before(holds, &total);
  }
  if (holds) {
    pushed.boxes[place] = box;
    pushed.areas[place] = area(box);
    if (has_classes) pushed.classes[place] = work.pushed_classes[i];
  }
  if (threadIdx.x < kAtOnce) {  // behind the last one: suppress nothing, below a threshold under 0 neither
    pushed.boxes[total + threadIdx.x] = Box<T>{1, 1, 0, 0};
    pushed.areas[total + threadIdx.x] = T(NAN);
    if (has_classes) pushed.classes[total + threadIdx.x] = 0;
  }
  __syncthreads();
  return total;
}

// Whether one of `count` pushed boxes suppresses the box.
template <bool has_classes, typename T>
__device__ __forceinline__ bool any_suppresses(const Pushed<T>& pushed, int count, const Box<T>& box, T box_area,
                                               int64_t box_class, const SuppressionRule<T>& rule) {
  for (int k = 0; k < count; k += kAtOnce) {
    bool any = false;
#pragma unroll
    for (int j = k; j < k + kAtOnce; ++j) {
      const T inter = intersection(pushed.boxes[j], box);
      const bool may = may_suppress(inter, pushed.areas[j] + box_area - inter, rule);
      any = any || (may && (!has_classes || pushed.classes[j] == box_class));
    }
    for (int j = k; any && j < k + kAtOnce; ++j) {
      if (has_classes && pushed.classes[j] != box_class) continue;
      if (suppresses(pushed.boxes[j], box, pushed.areas[j], box_area, rule)) return true;
    }
  }
  return false;
}

// by_cell: boxes come in the order of cells, so that those of a block lie together, and most pushed boxes are far away.
template <bool has_classes, bool by_cell, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    push_kernel(int64_t n, NmsWork<T> work, SuppressionRule<T> rule) {
  __shared__ Pushed<T> pushed;
  const int count = work.state->pushed;
  const int64_t from = work.state->next;
  for (int64_t base = static_cast<int64_t>(blockIdx.x) * kThreads; count > 0 && base < n;
       base += static_cast<int64_t>(gridDim.x) * kThreads) {
    if (!by_cell && base + kThreads <= from) continue;
    const int64_t i = base + threadIdx.x, rank = by_cell && i < n ? work.ranks[i] : i;
    const unsigned bit = 1u << (rank % kWarpSize);
    bool alive = rank >= from && i < n && (work.dead[rank / kWarpSize] & bit) == 0;
    const bool was_alive = alive;
    const Box<T> box = alive ? (by_cell ? work.cell_boxes[i] : work.boxes[rank]) : Box<T>{};
    const T box_area = area(box);
    const int64_t box_class = has_classes && alive ? work.classes[rank] : 0;
    Box<T> around{};
    if (by_cell) around = box_around(alive, box);
    for (int first = 0; first < count; first += kThreads) {
      if (!__syncthreads_or(alive)) break;
      const int here = load_pushed<has_classes, by_cell>(work, pushed, first, count, around);
      if (alive) alive = !any_suppresses<has_classes>(pushed, here, box, box_area, box_class, rule);
    }
    if (by_cell) {
      if (was_alive && !alive) atomicOr(&work.dead[rank / kWarpSize], bit);
    } else {
      const unsigned died = __ballot_sync(kFullMask, was_alive && !alive);
      if (died != 0 && threadIdx.x % kWarpSize == 0) work.dead[rank / kWarpSize] |= died;
    }
  }
  if (is_last_block(&work.state->ticket)) choose_tile(work, n);
}

}  // namespace
}  // namespace ssd_ops
