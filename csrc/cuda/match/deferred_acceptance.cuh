// Assigns each ground truth of one image a prior of its own by deferred acceptance, with one block, after all matches
// by threshold are written. Why this gives the greedy matching, whatever the order of the proposals:
// csrc/cpu/match/deferred_acceptance.cpp.
//
// gt_index holds the assignment (see encode_assigned()). It is changed by compare-and-swap only, so that a prior always
// changes to a ground truth that it prefers and the result does not depend on timing. The state of a ground truth is
// the prior that it is assigned to or proposes to, kNoPrior, or kRefused. With rule `last` a prior prefers the last
// ground truth, and one that is displaced gets no other prior.
//
// Plan: a block is an image. First a thread per ground truth proposes to its best prior, which match_kernel has found.
// Ground truths that are refused or displaced become kRefused, each at most once here since each proposes once. Then
// every refused ground truth searches for the best prior that would accept it and proposes to it, and so does the
// ground truth that it displaces: the whole block searches if few are refused, a warp for each if many are. Finally a
// thread per ground truth writes the match of the prior that it is assigned to.
#pragma once

#include "cuda/common/load.cuh"
#include "cuda/common/reduce.cuh"
#include "cuda/match/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int64_t kNoPrior = -1, kRefused = -2;  // states of a ground truth; gt_index has a different encoding
// At most this many refused ground truths are resolved one after another by the whole block; more, by a warp each.
constexpr int kFewRefused = 8;

template <typename T>
constexpr int kAssignThreads = sizeof(T) == sizeof(float) ? 768 : 512;

// A prior that would accept a ground truth, and their IoU; 0 if there is none.
template <typename T>
struct Candidate {
  T iou;
  int64_t prior;

  __device__ __forceinline__ bool precedes(const Candidate& other) const {
    return iou > other.iou || (iou == other.iou && iou > T(0) && prior < other.prior);
  }
};

// A relaxed load (ld.volatile) of what other threads may be changing.
__device__ __forceinline__ long long load_relaxed(const long long* from) {
  return *static_cast<const volatile long long*>(from);
}

// The assignment of the priors of one image; `gt` is an index in the image.
template <typename T>
struct DeferredAcceptance {
  const CudaMatchParams<T>& params;
  int64_t image, begin, num_gt;  // its ground truths have the packed indices begin .. begin + num_gt - 1

  __device__ long long* gt_index(int64_t prior) const { return params.gt_index + image * params.num_priors + prior; }
  __device__ long long* state(int64_t gt) const { return params.gt_states() + begin + gt; }

  // Whether a prior that is assigned to `current` prefers `gt`, whose IoU with it is `iou`.
  __device__ bool prefers(const Box<T>& prior_box, int64_t gt, T iou, int64_t current) const {
    if (params.rule == MatchRule::last) return gt > current;
    const Box<T> box = params.gt_boxes[begin + current];
    const T current_iou = matching_iou(box, prior_box, area(box), area(prior_box));
    return iou > current_iou || (iou == current_iou && gt < current);
  }

  // `gt` proposes to `prior`. Returns the ground truth that is left without a prior: `gt` if it is refused, the one
  // that it displaces, or -1.
  __device__ int64_t propose(int64_t prior, int64_t gt) const {
    *state(gt) = prior;
    // Release and, after the swap, acquire: the thread that displaces gt later writes its state after the line above.
    // The scope of the block suffices, because one block has the image.
    __threadfence_block();
    auto* slot = reinterpret_cast<unsigned long long*>(gt_index(prior));
    const Box<T> a = params.gt_boxes[begin + gt], b = params.priors[prior];
    const T iou = matching_iou(a, b, area(a), area(b));
    auto expected = static_cast<unsigned long long>(load_relaxed(gt_index(prior)));
    for (;;) {
      const int64_t current = decode_assigned(static_cast<int64_t>(expected));
      if (current >= 0 && !prefers(b, gt, iou, current)) return gt;
      const unsigned long long found = atomicCAS(slot, expected, static_cast<unsigned long long>(encode_assigned(gt)));
      if (found == expected) {
        __threadfence_block();
        return current;
      }
      expected = found;
    }
  }

  // Returns, to all lanes of a warp, the best prior that would accept `gt`, the lowest of ties, in every `stride`-th
  // tile from `first_tile` on. With the rule `last` every prior would. An assignment that is out of date does no harm:
  // a prior changes only to a ground truth that it prefers, so a refusal is final, and propose() checks an acceptance.
  __device__ Candidate<T> best_accepting_prior(int64_t gt, int first_tile, int stride) const {
    constexpr int kLoadsInFlight = sizeof(T) == sizeof(float) ? 4 : 2;  // tiles whose priors are loaded at once
    const Box<T> a = params.gt_boxes[begin + gt];
    const T area_a = area(a);
    const int64_t num_tiles = num_prior_tiles(params.num_priors), lane = threadIdx.x % kWarpSize;
    Candidate<T> best{0, kNoPrior};
    for (int64_t first = first_tile; first < num_tiles; first += kWarpSize * stride) {
      const bool overlaps_tile =
          first + lane * stride < num_tiles && overlaps(a, params.tile_bounds[first + lane * stride]);
      for (unsigned mask = __ballot_sync(kFullMask, overlaps_tile); mask != 0;) {
        Box<T> b[kLoadsInFlight];
        int64_t p[kLoadsInFlight];
        T iou[kLoadsInFlight];
        long long index[kLoadsInFlight];
#pragma unroll
        for (int k = 0; k < kLoadsInFlight; ++k) {
          p[k] = mask != 0 ? (first + (__ffs(static_cast<int>(mask)) - 1) * stride) * kPriorTile + lane
                           : params.num_priors;
          b[k] = p[k] < params.num_priors ? params.priors[p[k]] : Box<T>{};  // IoU 0: gt_index is not read
          mask &= mask - 1;
        }
#pragma unroll
        for (int k = 0; k < kLoadsInFlight; ++k) {
          iou[k] = matching_iou(a, b[k], area_a, area(b[k]));
          index[k] = iou[k] > best.iou ? load_relaxed(gt_index(p[k])) : -1;
        }
#pragma unroll
        for (int k = 0; k < kLoadsInFlight; ++k) {
          const int64_t current = decode_assigned(index[k]);
          if (!(iou[k] > best.iou) ||
              (params.rule == MatchRule::greedy && current >= 0 && !prefers(b[k], gt, iou[k], current)))
            continue;
          best = {iou[k], p[k]};  // priors ascend, so that the lowest of ties is kept
        }
      }
    }
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      const Candidate<T> other{__shfl_xor_sync(kFullMask, best.iou, step),
                               __shfl_xor_sync(kFullMask, static_cast<long long>(best.prior), step)};
      if (other.precedes(best)) best = other;
    }
    return best;
  }

  // By one thread: `gt` proposes to the best prior that match_kernel found, if it has found those.
  __device__ void propose_to_best_prior(int64_t gt, bool has_best_priors) const {
    if (params.ignored(begin + gt)) {
      *state(gt) = kNoPrior;
      return;
    }
    if (!has_best_priors) {
      *state(gt) = kRefused;
      return;
    }
    const unsigned long long key = params.best_prior_keys()[begin + gt];
    if (key == 0) {
      *state(gt) = kNoPrior;
      return;
    }
    const int64_t refused = propose(static_cast<int64_t>(~static_cast<unsigned>(key)), gt);
    if (refused >= 0) *state(refused) = params.rule == MatchRule::greedy ? kRefused : kNoPrior;
  }

  // By one thread: `gt` proposes to the candidate, if any; returns the ground truth that has to search next, or -1.
  __device__ int64_t propose_or_give_up(const Candidate<T>& candidate, int64_t gt) const {
    int64_t refused = -1;
    if (candidate.prior < 0) {
      *state(gt) = kNoPrior;
    } else {
      refused = propose(candidate.prior, gt);
    }
    if (refused < 0 || params.rule == MatchRule::greedy) return refused;
    *state(refused) = kNoPrior;
    return -1;
  }

  // By one warp: `gt`, and then the ground truth that is refused or displaced, searches and proposes until none is.
  __device__ void resolve_by_warp(int64_t gt) const {
    while (gt >= 0) {
      const Candidate<T> candidate = best_accepting_prior(gt, 0, 1);
      const int64_t refused = threadIdx.x % kWarpSize == 0 ? propose_or_give_up(candidate, gt) : -1;
      gt = __shfl_sync(kFullMask, static_cast<long long>(refused), 0);
    }
  }

  // The same by the whole block.
  __device__ void resolve_by_block(int64_t gt) const {
    __shared__ T ious[kWarpSize];
    __shared__ int64_t priors[kWarpSize], next;
    const int warp = threadIdx.x / kWarpSize, warps = blockDim.x / kWarpSize;
    while (gt >= 0) {
      const Candidate<T> candidate = best_accepting_prior(gt, warp, warps);
      if (threadIdx.x % kWarpSize == 0) {
        ious[warp] = candidate.iou;
        priors[warp] = candidate.prior;
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        Candidate<T> best = candidate;
        for (int w = 1; w < warps; ++w) {
          const Candidate<T> other{ious[w], priors[w]};
          if (other.precedes(best)) best = other;
        }
        next = propose_or_give_up(best, gt);
      }
      __syncthreads();
      gt = next;
      __syncthreads();  // all threads have read it
    }
  }

  // Every refused ground truth searches for another prior.
  __device__ void resolve_refused() const {
    __shared__ int num_refused;
    __shared__ int64_t few[kFewRefused];
    if (threadIdx.x == 0) num_refused = 0;
    __syncthreads();
    for (int64_t gt = threadIdx.x; gt < num_gt; gt += blockDim.x) {
      if (load_relaxed(state(gt)) != kRefused) continue;
      const int slot = atomicAdd(&num_refused, 1);
      if (slot < kFewRefused) few[slot] = gt;
    }
    __syncthreads();
    const int count = num_refused;
    __syncthreads();  // it may be written again
    if (count <= kFewRefused) {
      for (int k = 0; k < count; ++k) resolve_by_block(few[k]);
    } else {
      for (int64_t gt = threadIdx.x / kWarpSize; gt < num_gt; gt += blockDim.x / kWarpSize) {
        const int64_t gt_state = __shfl_sync(kFullMask, load_relaxed(state(gt)), 0);
        if (gt_state == kRefused) resolve_by_warp(gt);
      }
    }
    __syncthreads();
  }

  __device__ void write_match(int64_t gt, int64_t prior) const {
    const int64_t index = image * params.num_priors + prior;
    params.labels[index] = params.gt_labels[begin + gt];
    params.gt_index[index] = gt;
    params.loc_targets[index] =
        encode(params.gt_boxes[begin + gt], params.priors[prior], CodeType::center_size, params.variances);
  }

  // By one block. `has_best_priors`: match_kernel has written the keys of the best priors.
  __device__ void run(bool has_best_priors) const {
    for (int64_t gt = threadIdx.x; gt < num_gt; gt += blockDim.x) propose_to_best_prior(gt, has_best_priors);
    __syncthreads();
    resolve_refused();
    for (int64_t gt = threadIdx.x; gt < num_gt; gt += blockDim.x) {
      // Every ground truth that was refused or displaced has had its state changed, so gt_index agrees with the states.
      const int64_t prior = load_relaxed(state(gt));
      if (prior >= 0) write_match(gt, prior);
    }
    __syncthreads();
  }
};

}  // namespace
}  // namespace ssd_ops
