// Objects of one image claim priors of their own; run by one whole block when all results by threshold are written.
// Why this gives the pairs of the greedy rule, in whatever order the objects ask: csrc/cpu/match_claims.cpp.
//
// gt_index is the table of holders (held_by), changed by compare-and-swap only, so that a prior always passes to a
// better object and the outcome does not depend on time. State of object g: the prior that it holds or asks, or one of
// two marks.
//
// Plan: first a thread per object asks the best prior, known from the tiles. Who is refused or displaced is marked as
// lost; an object is lost at most once here, since it asks once. Then a warp per lost object looks for its best prior
// among those that would accept it, asks it, and goes on with whomever it displaces. At the end a thread per object
// writes what the prior that it holds learns.
#pragma once

#include "cuda/load.cuh"
#include "cuda/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int64_t kNoPrior = -1, kLost = -2;

// Reads what another thread may write meanwhile.
__device__ __forceinline__ long long fresh(const long long* from) {
  return *static_cast<const volatile long long*>(from);
}

// Whether a box can overlap a box inside `tile`.
template <typename T>
__device__ __forceinline__ bool touches(const Box<T>& box, const Box<T>& tile) {
  return box.x2 > tile.x1 && box.x1 < tile.x2 && box.y2 > tile.y1 && box.y1 < tile.y2;
}

// IoU, 0 for NaN. Most pairs do not overlap and are spared the division.
template <typename T>
__device__ __forceinline__ T overlap(const Box<T>& a, const Box<T>& b, T area_a, T area_b) {
  const T inter = intersection(a, b);
  return inter > T(0) ? at_least_zero(ratio(inter, area_a + area_b - inter)) : T(0);
}

// The claims on the priors of one image; g counts its objects.
template <typename T>
struct CudaClaims {
  const CudaMatchTask<T>& task;
  int64_t image, begin, count;  // its objects are begin .. begin + count - 1

  __device__ long long* holder(int64_t prior) const { return task.gt_index + image * task.count + prior; }
  __device__ long long* state(int64_t g) const { return task.best() + begin + g; }

  __device__ T iou_of(int64_t g, int64_t prior) const {
    const Box<T> a = task.gt_boxes[begin + g], b = task.priors[prior];
    return overlap(a, b, area(a), area(b));
  }

  // Whether a prior that h holds would rather have g, whose IoU with it is `value`.
  __device__ bool prefers(int64_t prior, int64_t g, T value, int64_t h) const {
    if (task.rule == ClaimRule::last) return g > h;
    const T other = iou_of(h, prior);
    return value > other || (value == other && g < h);
  }

  // Asks a prior for object g and returns who is left without one: g, the object that it displaces, or -1.
  __device__ int64_t ask(int64_t prior, int64_t g) const {
    *state(g) = prior;  // before the prior is taken: afterwards whoever displaces g may write here
    __threadfence_block();
    auto* cell = reinterpret_cast<unsigned long long*>(holder(prior));
    const T value = iou_of(g, prior);
    auto seen = static_cast<unsigned long long>(fresh(holder(prior)));
    for (;;) {
      const int64_t h = holder_of(static_cast<int64_t>(seen));
      if (h >= 0 && !prefers(prior, g, value, h)) return g;
      const unsigned long long now = atomicCAS(cell, seen, static_cast<unsigned long long>(held_by(g)));
      if (now == seen) {
        __threadfence_block();
        return h;
      }
      seen = now;
    }
  }

  // Returns, to all lanes of a warp, the best prior that would accept g, the lowest of equals, -1 none. Rule `last` is
  // accepted everywhere.
  __device__ int64_t next_best(int64_t g) const {
    const Box<T> a = task.gt_boxes[begin + g];
    const T area_a = area(a);
    const int64_t tiles = ceil_div(task.count, kWarpTile), lane = threadIdx.x % kWarpSize;
    T best = 0;
    int64_t prior = kNoPrior;
    for (int64_t first = 0; first < tiles; first += kWarpSize) {
      const bool near = first + lane < tiles && touches(a, task.tile_boxes[first + lane]);
      for (unsigned mask = __ballot_sync(kFullMask, near); mask != 0; mask &= mask - 1) {
        const int64_t p = (first + __ffs(static_cast<int>(mask)) - 1) * kWarpTile + lane;
        if (p >= task.count) continue;
        const Box<T> b = task.priors[p];
        const T value = overlap(a, b, area_a, area(b));
        if (!(value > best)) continue;
        const int64_t h = holder_of(fresh(holder(p)));
        if (task.rule == ClaimRule::greedy && h >= 0 && !prefers(p, g, value, h)) continue;
        best = value;
        prior = p;
      }
    }
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(kFullMask, best, step);
      const int64_t other_prior = __shfl_xor_sync(kFullMask, static_cast<long long>(prior), step);
      if (other > best || (other == best && other > T(0) && other_prior < prior)) {
        best = other;
        prior = other_prior;
      }
    }
    return prior;
  }

  // A thread's part: object g asks the prior that the tiles found, if they looked for one.
  __device__ void ask_first(int64_t g, bool keyed) const {
    if (task.ignored(begin + g)) {
      *state(g) = kNoPrior;
      return;
    }
    if (!keyed) {
      *state(g) = kLost;
      return;
    }
    const auto key = static_cast<unsigned long long>(fresh(state(g)));
    if (key == 0) {
      *state(g) = kNoPrior;
      return;
    }
    const int64_t left = ask(static_cast<int64_t>(~static_cast<unsigned>(key)), g);
    if (left >= 0) *state(left) = task.rule == ClaimRule::greedy ? kLost : kNoPrior;
  }

  // A warp's part: object g, and after it whoever is displaced, asks until one finds a free prior or none.
  __device__ void settle(int64_t g) const {
    const bool leader = threadIdx.x % kWarpSize == 0;
    while (g >= 0) {
      const int64_t prior = next_best(g);
      int64_t left = -1;
      if (leader) {
        if (prior < 0)
          *state(g) = kNoPrior;
        else
          left = ask(prior, g);
        if (left >= 0 && task.rule == ClaimRule::last) {
          *state(left) = kNoPrior;
          left = -1;
        }
      }
      g = __shfl_sync(kFullMask, static_cast<long long>(left), 0);
    }
  }

  __device__ void learn(int64_t g, int64_t prior) const {
    const int64_t at = image * task.count + prior;
    task.labels[at] = task.gt_labels[begin + g];
    task.gt_index[at] = g;
    task.loc_targets[at] = encode(task.gt_boxes[begin + g], task.priors[prior], CodeType::center_size, task.variances);
  }

  // `keyed`: the tiles have left the best prior of each object in task.best().
  __device__ void run(bool keyed) const {
    for (int64_t g = threadIdx.x; g < count; g += blockDim.x) ask_first(g, keyed);
    __syncthreads();
    for (int64_t g = threadIdx.x / kWarpSize; g < count; g += blockDim.x / kWarpSize) {
      const int64_t at = __shfl_sync(kFullMask, fresh(state(g)), 0);
      if (at == kLost) settle(g);
    }
    __syncthreads();
    for (int64_t g = threadIdx.x; g < count; g += blockDim.x) {
      const int64_t prior = fresh(state(g));
      if (prior >= 0 && fresh(holder(prior)) == held_by(g)) learn(g, prior);
    }
    __syncthreads();
  }
};

}  // namespace
}  // namespace ssd_ops
