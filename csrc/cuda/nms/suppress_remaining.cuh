// Kept boxes push: those behind that they suppress die. The plan stands in nms.cu.
#pragma once

#include "core/suppression.h"
#include "cuda/common/block.cuh"
#include "cuda/nms/cell_order.cuh"

namespace ssd_ops {
namespace {

constexpr int kAtOnce = 4;  // boxes that a thread is compared with between two branches

// How the work is divided: a block has kThreads boxes (and those a stride further) and a share of the pushed ones.
struct PushGrid {
  unsigned blocks, shares;
};

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
    place = block_count_before(holds, &total);
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
__device__ void push(int64_t n, const NmsWork<T>& work, const SuppressionRule<T>& rule, const PushGrid& grid) {
  __shared__ Pushed<T> pushed;
  const int each = static_cast<int>(ceil_div(work.state->pushed, grid.shares));
  const int begin = static_cast<int>(blockIdx.x % grid.shares) * each;
  const int end = begin + each < work.state->pushed ? begin + each : work.state->pushed;
  const int64_t from = work.state->from;
  for (int64_t base = static_cast<int64_t>(blockIdx.x / grid.shares) * kThreads; begin < end && base < n;
       base += static_cast<int64_t>(grid.blocks) * kThreads) {
    if (!by_cell && base + kThreads <= from) continue;
    const int64_t i = base + threadIdx.x, rank = by_cell && i < n ? work.ranks[i] : i;
    const unsigned bit = 1u << (rank % kWarpSize);
    // Another share may be writing here; what it has found so far is spared.
    bool alive = rank >= from && i < n && (__ldcg(&work.dead[rank / kWarpSize]) & bit) == 0;
    const bool was_alive = alive;
    const Box<T> box = alive ? (by_cell ? work.cell_boxes[i] : work.boxes[rank]) : Box<T>{};
    const T box_area = area(box);
    const int64_t box_class = has_classes && alive ? work.classes[rank] : 0;
    Box<T> around{};
    if (by_cell) around = box_around(alive, box);
    for (int first = begin; first < end; first += kThreads) {
      if (!__syncthreads_or(alive)) break;
      const int here = load_pushed<has_classes, by_cell>(work, pushed, first, end, around);
      if (alive) alive = !any_suppresses<has_classes>(pushed, here, box, box_area, box_class, rule);
    }
    const bool died = was_alive && !alive;
    if (by_cell) {
      if (died) atomicOr(&work.dead[rank / kWarpSize], bit);
    } else {
      const unsigned bits = __ballot_sync(kFullMask, died);
      if (bits != 0 && threadIdx.x % kWarpSize == 0) atomicOr(&work.dead[rank / kWarpSize], bits);
    }
  }
}

}  // namespace
}  // namespace ssd_ops
