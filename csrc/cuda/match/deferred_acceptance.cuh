// Objects of one image claim priors of their own; run by one whole block when all results by threshold are written.
// Why this gives the pairs of the greedy rule, in whatever order the objects ask:
// csrc/cpu/match/deferred_acceptance.cpp.
//
// gt_index is the table of holders (held_by), changed by compare-and-swap only, so that a prior always passes to a
// better object and the outcome does not depend on time. State of object g: the prior that it holds or asks, or one of
// two marks.
//
// Plan: a block is an image. First a thread per object asks the best prior, known from the tiles. Who is refused or
// displaced is marked as lost; an object is lost at most once here, since it asks once. Then each lost object looks for
// its best prior among those that would accept it, asks it, and whomever it displaces goes on: the whole block looks
// where few are lost, a warp for each where many are. At the end a thread per object writes what the prior that it
// holds learns.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/match/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int64_t kNoPrior = -1, kLost = -2;
constexpr int kFewLost = 8;  // so many objects are settled by the whole block, one after another

template <typename T>
constexpr int kClaimThreads = sizeof(T) == sizeof(float) ? 768 : 512;

// A prior that would have an object, and their IoU; 0 where there is none.
template <typename T>
struct Offer {
  T iou;
  int64_t prior;

  __device__ __forceinline__ bool beats(const Offer& other) const {
    return iou > other.iou || (iou == other.iou && iou > T(0) && prior < other.prior);
  }
};

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

  // Whether a prior that h holds would rather have g, whose IoU with it is `value`.
  __device__ bool prefers(const Box<T>& prior, int64_t g, T value, int64_t h) const {
    if (task.rule == ClaimRule::last) return g > h;
    const Box<T> box = task.gt_boxes[begin + h];
    const T other = overlap(box, prior, area(box), area(prior));
    return value > other || (value == other && g < h);
  }

  // Asks a prior for object g and returns who is left without one: g, the object that it displaces, or -1.
  __device__ int64_t ask(int64_t prior, int64_t g) const {
    *state(g) = prior;  // before the prior is taken: afterwards whoever displaces g may write here
    __threadfence_block();
    auto* cell = reinterpret_cast<unsigned long long*>(holder(prior));
    const Box<T> a = task.gt_boxes[begin + g], b = task.priors[prior];
    const T value = overlap(a, b, area(a), area(b));
    auto seen = static_cast<unsigned long long>(fresh(holder(prior)));
    for (;;) {
      const int64_t h = holder_of(static_cast<int64_t>(seen));
      if (h >= 0 && !prefers(b, g, value, h)) return g;
      const unsigned long long now = atomicCAS(cell, seen, static_cast<unsigned long long>(held_by(g)));
      if (now == seen) {
        __threadfence_block();
        return h;
      }
      seen = now;
    }
  }

  // Returns, to all lanes of a warp, the best prior that would accept g, the lowest of equals, in every `parts`-th tile
  // from number `part` on. Rule `last` is accepted everywhere.
  __device__ Offer<T> best_offer(int64_t g, int part, int parts) const {
    constexpr int kAtOnce = sizeof(T) == sizeof(float) ? 4 : 2;  // tiles whose priors are on their way
    const Box<T> a = task.gt_boxes[begin + g];
    const T area_a = area(a);
    const int64_t tiles = ceil_div(task.count, kWarpTile), lane = threadIdx.x % kWarpSize;
    Offer<T> best{0, kNoPrior};
    for (int64_t first = part; first < tiles; first += kWarpSize * parts) {
      const bool near = first + lane * parts < tiles && touches(a, task.tile_boxes[first + lane * parts]);
      for (unsigned mask = __ballot_sync(kFullMask, near); mask != 0;) {
        Box<T> b[kAtOnce];
        int64_t p[kAtOnce];
        T value[kAtOnce];
        long long held[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          p[k] = mask != 0 ? (first + (__ffs(static_cast<int>(mask)) - 1) * parts) * kWarpTile + lane : task.count;
          b[k] = p[k] < task.count ? task.priors[p[k]] : Box<T>{};  // a point at 0 overlaps nothing
          mask &= mask - 1;
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          value[k] = overlap(a, b[k], area_a, area(b[k]));
          held[k] = value[k] > best.iou ? fresh(holder(p[k])) : -1;
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const int64_t h = holder_of(held[k]);
          if (!(value[k] > best.iou) || (task.rule == ClaimRule::greedy && h >= 0 && !prefers(b[k], g, value[k], h)))
            continue;
          best = {value[k], p[k]};
        }
      }
    }
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      const Offer<T> other{__shfl_xor_sync(kFullMask, best.iou, step),
                           __shfl_xor_sync(kFullMask, static_cast<long long>(best.prior), step)};
      if (other.beats(best)) best = other;
    }
    return best;
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

  // A thread's part: object g takes the offer; returns the object that must go on, or -1.
  __device__ int64_t accept(int64_t g, const Offer<T>& offer) const {
    int64_t left = -1;
    if (offer.prior < 0) {
      *state(g) = kNoPrior;
    } else {
      left = ask(offer.prior, g);
    }
    if (left < 0 || task.rule == ClaimRule::greedy) return left;
    *state(left) = kNoPrior;
    return -1;
  }

  // A warp's part: object g, and after it whoever is displaced, asks until one finds a free prior or none.
  __device__ void settle(int64_t g) const {
    while (g >= 0) {
      const Offer<T> offer = best_offer(g, 0, 1);
      const int64_t left = threadIdx.x % kWarpSize == 0 ? accept(g, offer) : -1;
      g = __shfl_sync(kFullMask, static_cast<long long>(left), 0);
    }
  }

  // Likewise the block's part.
  __device__ void settle_together(int64_t g) const {
    __shared__ T ious[kWarpSize];
    __shared__ int64_t priors[kWarpSize], next;
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    while (g >= 0) {
      const Offer<T> offer = best_offer(g, warp, warps);
      if (threadIdx.x % kWarpSize == 0) {
        ious[warp] = offer.iou;
        priors[warp] = offer.prior;
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        Offer<T> best = offer;
        for (int w = 1; w < warps; ++w) {
          const Offer<T> other{ious[w], priors[w]};
          if (other.beats(best)) best = other;
        }
        next = accept(g, best);
      }
      __syncthreads();
      g = next;
      __syncthreads();  // all have read it
    }
  }

  // The lost objects look for others.
  __device__ void settle_lost() const {
    __shared__ int lost;
    __shared__ int64_t few[kFewLost];
    if (threadIdx.x == 0) lost = 0;
    __syncthreads();
    for (int64_t g = threadIdx.x; g < count; g += blockDim.x) {
      if (fresh(state(g)) != kLost) continue;
      const int place = atomicAdd(&lost, 1);
      if (place < kFewLost) few[place] = g;
    }
    __syncthreads();
    const int number = lost;
    __syncthreads();  // it may be counted again
    if (number <= kFewLost) {
      for (int k = 0; k < number; ++k) settle_together(few[k]);
    } else {
      for (int64_t g = threadIdx.x / kWarpSize; g < count; g += blockDim.x / kWarpSize) {
        const int64_t at = __shfl_sync(kFullMask, fresh(state(g)), 0);
        if (at == kLost) settle(g);
      }
    }
    __syncthreads();
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
    settle_lost();
    for (int64_t g = threadIdx.x; g < count; g += blockDim.x) {
      const int64_t prior = fresh(state(g));
      if (prior >= 0 && fresh(holder(prior)) == held_by(g)) learn(g, prior);
    }
    __syncthreads();
  }
};

}  // namespace
}  // namespace ssd_ops
