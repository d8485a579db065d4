// Assigns each ground truth of one image a prior of its own by deferred acceptance, after all matches by threshold are
// written. Why this gives the greedy matching, whatever the order of the proposals:
// csrc/cpu/match/deferred_acceptance.cpp.
//
// gt_index holds the assignment (see encode_assigned()). It is changed by compare-and-swap only, so that a prior always
// changes to a ground truth that it prefers and the result does not depend on timing. The state of a ground truth is
// the prior that it is assigned to or proposes to, or kNoPrior. With rule `last` a prior prefers the last ground truth,
// and one that is displaced gets no other prior.
//
// Plan: one or more blocks per image, one ground truth per thread. Each thread proposes to the best prior of its ground
// truth, if match_kernel has found that. The ground truths that were rejected or displaced, or have no best prior yet,
// are put into a queue in shared memory. Each warp takes one after another: it searches for the best prior that would
// accept the ground truth, proposes, and continues with the ground truth that this proposal displaces, until none is
// displaced. The last block of the image writes the matches.
#pragma once

#include "cuda/match/best_prior.cuh"

namespace ssd_ops {
namespace {

// A relaxed load (ld.volatile), for values that other threads may change at the same time.
__device__ __forceinline__ long long load_relaxed(const long long* from) {
  return *static_cast<const volatile long long*>(from);
}

template <typename T>
struct CandidatesOf;

// The assignment of the priors of one image; `gt` is an index in the image.
template <typename T>
struct DeferredAcceptance {
  const CudaMatchParams<T>& params;
  int64_t image, begin, num_gt;  // its ground truths have the packed indices begin .. begin + num_gt - 1
  bool one_block;                // whether this block alone processes the image
  bool all_found;  // whether match_kernel has found the best prior of every ground truth that overlaps one

  __device__ long long* gt_index(int64_t prior) const { return params.gt_index + image * params.num_priors + prior; }
  __device__ long long* state(int64_t gt) const { return params.gt_states() + begin + gt; }

  // Whether a prior that is assigned to `current` prefers `gt`, whose IoU with it is `iou`.
  __device__ bool prefers(const Box<T>& prior_box, int64_t gt, T iou, int64_t current) const {
    if (params.rule == MatchRule::last) return gt > current;
    const Box<T> box = params.gt_boxes[begin + current];
    const T current_iou = matching_iou(box, prior_box, area(box), area(prior_box));
    return iou > current_iou || (iou == current_iou && gt < current);
  }

  // Orders the accesses of this thread for all threads that process the image.
  __device__ void fence() const {
    if (one_block) {
      __threadfence_block();
    } else {
      __threadfence();
    }
  }

  // `gt` proposes to `prior`. Returns the ground truth that has no prior afterwards: `gt` if it is rejected, the one
  // that it displaces, or -1.
  __device__ int64_t propose(int64_t prior, int64_t gt) const {
    *state(gt) = prior;
    // Release, and acquire after the swap: a thread that displaces gt later writes its state after the line above.
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

  // Called by one thread: `gt` proposes to `prior`, if there is one. Returns the ground truth that has to search next,
  // or -1.
  __device__ int64_t propose_or_give_up(int64_t prior, int64_t gt) const {
    int64_t unassigned = -1;
    if (prior < 0) {
      *state(gt) = kNoPrior;
    } else {
      unassigned = propose(prior, gt);
    }
    if (unassigned < 0 || params.rule == MatchRule::greedy) return unassigned;
    *state(unassigned) = kNoPrior;
    return -1;
  }

  // Called by one warp: `gt`, and then each ground truth that is rejected or displaced, searches and proposes until
  // none is left. A stale assignment does no harm: a prior changes only to a ground truth that it prefers, so a
  // rejection is final, and propose() checks again whether the prior accepts.
  __device__ void resolve(int64_t gt) const {
    while (gt >= 0) {
      const PriorIou<T> best = find_best_prior(params, params.gt_boxes[begin + gt], CandidatesOf<T>{*this, gt});
      const int64_t unassigned = threadIdx.x % kWarpSize == 0 ? propose_or_give_up(best.prior, gt) : -1;
      gt = __shfl_sync(kFullMask, static_cast<long long>(unassigned), 0);
    }
  }

  // Proposes `gt` to the best of all priors, if match_kernel has found that. Returns the ground truth that has to
  // search next, or -1.
  __device__ int64_t propose_to_best(int64_t gt) const {
    const long long best = *state(gt);
    if (best != 0) return propose_or_give_up(decode_best_prior(best), gt);
    if (!all_found && !params.ignored(begin + gt)) return gt;
    *state(gt) = kNoPrior;
    return -1;
  }

  // Called by block number `block` of the `num_blocks` of the image.
  __device__ void assign(unsigned block, unsigned num_blocks) const {
    __shared__ int64_t queue[kMatchThreads];  // ground truths that have to search
    __shared__ int queue_size, next;
    for (int64_t first = block; first < num_gt; first += static_cast<int64_t>(num_blocks) * blockDim.x) {
      if (threadIdx.x == 0) queue_size = next = 0;
      __syncthreads();
      const int64_t gt = first + static_cast<int64_t>(threadIdx.x) * num_blocks;
      const int64_t unassigned = gt < num_gt ? propose_to_best(gt) : -1;
      if (unassigned >= 0) queue[atomicAdd(&queue_size, 1)] = unassigned;
      __syncthreads();
      for (;;) {
        const int i = __shfl_sync(kFullMask, threadIdx.x % kWarpSize == 0 ? atomicAdd(&next, 1) : 0, 0);
        if (i >= queue_size) break;
        resolve(queue[i]);
      }
      __syncthreads();
    }
  }

  // Called by a block after all warps of the image have called assign(): the state of every ground truth that was
  // rejected or displaced has been updated, so gt_index agrees with the states.
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

// The priors that `gt` may propose to, for BestPriorSearch: with rule `last` all of them.
template <typename T>
struct CandidatesOf {
  const DeferredAcceptance<T>& acceptance;
  int64_t gt;

  __device__ int64_t assigned(int64_t prior) const { return decode_assigned(load_relaxed(acceptance.gt_index(prior))); }
  __device__ bool accepts(const Box<T>& prior_box, T iou, int64_t current) const {
    return current < 0 || acceptance.params.rule == MatchRule::last || acceptance.prefers(prior_box, gt, iou, current);
  }
};

}  // namespace
}  // namespace ssd_ops
