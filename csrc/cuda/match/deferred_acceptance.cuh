// Assigns each ground truth of one image a prior of its own by deferred acceptance, after all matches by threshold are
// written. Why this gives the greedy matching, whatever the order of the proposals:
// csrc/cpu/match/deferred_acceptance.cpp.
//
// gt_index holds the assignment (see encode_assigned()). It is changed by compare-and-swap only, so that a prior always
// changes to a ground truth that it prefers and the result does not depend on timing. The state of a ground truth is
// the prior that it is assigned to or proposes to, or kNoPrior. With rule `last` a prior prefers the last ground truth,
// and one that is displaced gets no other prior.
//
// Plan: some blocks share an image, a lane has a ground truth. Each proposes to its best prior, which match_kernel has
// found. Then the warp takes those that were refused or displaced, one after another: it searches for the best prior
// that would accept the ground truth, proposes, and goes on with the one that this proposal displaces, until none is.
// The last block of the image writes the matches.
#pragma once

#include "cuda/match/best_prior.cuh"

namespace ssd_ops {
namespace {

// A relaxed load (ld.volatile) of what other threads may be changing.
__device__ __forceinline__ long long load_relaxed(const long long* from) {
  return *static_cast<const volatile long long*>(from);
}

// The assignment of the priors of one image; `gt` is an index in the image.
template <typename T>
struct DeferredAcceptance {
  const CudaMatchParams<T>& params;
  int64_t image, begin, num_gt;  // its ground truths have the packed indices begin .. begin + num_gt - 1
  bool one_block;                // has the image; else several share it

  __device__ long long* gt_index(int64_t prior) const { return params.gt_index + image * params.num_priors + prior; }
  __device__ long long* state(int64_t gt) const { return params.gt_states() + begin + gt; }

  // Whether a prior that is assigned to `current` prefers `gt`, whose IoU with it is `iou`.
  __device__ bool prefers(const Box<T>& prior_box, int64_t gt, T iou, int64_t current) const {
    if (params.rule == MatchRule::last) return gt > current;
    const Box<T> box = params.gt_boxes[begin + current];
    const T current_iou = matching_iou(box, prior_box, area(box), area(prior_box));
    return iou > current_iou || (iou == current_iou && gt < current);
  }

  __device__ void fence() const {
    if (one_block) {
      __threadfence_block();
    } else {
      __threadfence();
    }
  }

  // `gt` proposes to `prior`. Returns the ground truth that is left without a prior: `gt` if it is refused, the one
  // that it displaces, or -1.
  __device__ int64_t propose(int64_t prior, int64_t gt) const {
    *state(gt) = prior;
    // Release and, after the swap, acquire: the thread that displaces gt later writes its state after the line above.
    fence();
    auto* slot = reinterpret_cast<unsigned long long*>(gt_index(prior));
    const Box<T> a = params.gt_boxes[begin + gt], b = params.priors[prior];
    const T iou = matching_iou(a, b, area(a), area(b));
    auto expected = static_cast<unsigned long long>(load_relaxed(gt_index(prior)));
    for (;;) {
      const int64_t current = decode_assigned(static_cast<int64_t>(expected));
      if (current >= 0 && !prefers(b, gt, iou, current)) return gt;
      const unsigned long long found = atomicCAS(slot, expected, static_cast<unsigned long long>(encode_assigned(gt)));
      if (found == expected) {
        fence();
        return current;
      }
      expected = found;
    }
  }

  // By one thread: `gt` proposes to `prior`, if there is one. Returns the ground truth that has to search next, or -1.
  __device__ int64_t propose_or_give_up(int64_t prior, int64_t gt) const {
    int64_t refused = -1;
    if (prior < 0) {
      *state(gt) = kNoPrior;
    } else {
      refused = propose(prior, gt);
    }
    if (refused < 0 || params.rule == MatchRule::greedy) return refused;
    *state(refused) = kNoPrior;
    return -1;
  }

  // By one warp: `gt`, and then the ground truth that is refused or displaced, searches and proposes until none is. An
  // assignment that is out of date does no harm: a prior changes only to a ground truth that it prefers, so a refusal
  // is final, and propose() checks an acceptance.
  __device__ void resolve(int64_t gt) const {
    while (gt >= 0) {
      const auto would_accept = [&](int64_t prior, const Box<T>& prior_box, T iou) {
        const int64_t current = decode_assigned(load_relaxed(gt_index(prior)));
        return current < 0 || prefers(prior_box, gt, iou, current);
      };
      const Candidate<T> best = find_best_prior(params, params.gt_boxes[begin + gt], would_accept);
      const int64_t refused = threadIdx.x % kWarpSize == 0 ? propose_or_give_up(best.prior, gt) : -1;
      gt = __shfl_sync(kFullMask, static_cast<long long>(refused), 0);
    }
  }

  // By a warp, number `warp` of the `num_warps` that share the image.
  __device__ void assign(int64_t warp, int64_t num_warps) const {
    for (int64_t first = warp; first < num_gt; first += num_warps * kWarpSize) {
      const int64_t gt = first + threadIdx.x % kWarpSize * num_warps;
      const int64_t prior = gt < num_gt ? load_relaxed(state(gt)) : kNoPrior;
      const int64_t refused = prior >= 0 ? propose_or_give_up(prior, gt) : -1;
      unsigned mask = __ballot_sync(kFullMask, refused >= 0);
      __syncwarp();  // lane 0 writes states after those that the lanes have written
      for (; mask != 0; mask &= mask - 1)
        resolve(__shfl_sync(kFullMask, static_cast<long long>(refused), __ffs(static_cast<int>(mask)) - 1));
    }
  }

  // By a block, after all warps have assigned: every ground truth that was refused or displaced has had its state
  // changed, so gt_index agrees with the states.
  __device__ void write_matches() const {
    for (int64_t gt = threadIdx.x; gt < num_gt; gt += blockDim.x) {
      const int64_t prior = load_relaxed(state(gt));
      if (prior < 0) continue;
      const int64_t index = image * params.num_priors + prior;
      params.labels[index] = params.gt_labels[begin + gt];
      params.gt_index[index] = gt;
      params.loc_targets[index] =
          encode(params.gt_boxes[begin + gt], params.priors[prior], CodeType::center_size, params.variances);
    }
  }
};

}  // namespace
}  // namespace ssd_ops
