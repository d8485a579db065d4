// The best prior of a ground truth, found by a warp without comparing it with most priors.
//
// Plan: branch and bound. Each lane computes an upper bound of the IoU of the ground truth with the priors of a tile,
// for kTilesPerLane tiles at once. The warp compares the ground truth with the 32 priors of the tile with the highest
// bound first, and continues with the next tiles until all bounds are below the best IoU so far: it visits about a
// dozen of the 273 tiles of SSD300.
#pragma once

#include <limits>

#include "core/ordered_key.h"
#include "cuda/common/reduce.cuh"
#include "cuda/match/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int kMatchThreads = 256;  // of a block
constexpr int64_t kNoPrior = -1;
// Whether IoU and prior fit into one word for an atomic maximum, where ties go to the lowest prior and 0 is none. There
// are fewer than 2^32 priors: their results would take more than 100 GB.
template <typename T>
constexpr bool kRecordsBestPriors = sizeof(T) == sizeof(float);
template <typename T>
__device__ __forceinline__ long long encode_best_prior(T iou, int64_t prior) {
  return static_cast<long long>(to_bits(iou)) << 32 | (0xffffffffll - prior);
}
__device__ __forceinline__ int64_t decode_best_prior(long long best) { return 0xffffffffll - (best & 0xffffffffll); }

constexpr int kTilesAtOnce = 2;   // tiles whose priors are loaded together, to hide the latency
constexpr int kTilesPerLane = 9;  // bounds in the registers of a lane: 288 tiles of a warp, 9,216 priors

// The tile number `tile` of the priors. All lanes of a warp call it, one prior each.
template <typename T>
__device__ PriorTile<T> make_prior_tile(const CudaMatchParams<T>& params, int64_t tile) {
  const int64_t prior = tile * kPriorTile + threadIdx.x % kWarpSize;
  PriorTile<T> result{empty_bounds<T>(), T(0), T(0), T(INFINITY)};
  if (prior < params.num_priors) {
    const Box<T> box = params.priors[prior];
    // NaN coordinates are ignored: such a prior has an IoU of 0.
    result = {enclose(result.bounds, box), greater(box.x2 - box.x1, T(0)), greater(box.y2 - box.y1, T(0)),
              lesser(area(box), T(INFINITY))};
  }
  const auto max = [](T own, T other) { return greater(own, other); };
  const auto min = [](T own, T other) { return lesser(own, other); };
  return {warp_bounds(result.bounds), warp_reduce(result.max_width, max), warp_reduce(result.max_height, max),
          warp_reduce(result.min_area, min)};
}

// An upper bound of the IoU of a box with the priors of a tile: `inter` / `union_area`, not yet divided.
template <typename T>
struct IouBound {
  T inter, union_area;

  // Whether a prior of the tile may have this IoU. Always true for a bound that is NaN or infinite.
  __device__ __forceinline__ bool reaches(T iou) const { return inter > T(0) && !(inter < iou * union_area); }
};

// An intersection is increased by this to be compared with the product of an IoU and a union: more than all roundings,
// and more than bound_with_tile() lowers a bound.
template <typename T>
constexpr T kRoundingMargin = T(1.0001);

// The intersection with a prior is no wider than that with the bounds of the tile, and no wider than the widest prior;
// likewise for the height. The IoU increases with the area of the intersection and decreases with the area of the
// prior, which is at least that of the intersection. Rounding is monotonic, but matching_iou() adds in another order;
// `inter` is increased by far more than that difference.
template <typename T>
__device__ __forceinline__ IouBound<T> iou_bound(const Box<T>& box, T box_area, const PriorTile<T>& tile) {
  const T width = clamp_to_zero(lesser(box.x2, tile.bounds.x2) - greater(box.x1, tile.bounds.x1));
  const T height = clamp_to_zero(lesser(box.y2, tile.bounds.y2) - greater(box.y1, tile.bounds.y1));
  const T inter = lesser(width, tile.max_width) * lesser(height, tile.max_height);
  return {inter * kRoundingMargin<T>, box_area + (greater(tile.min_area, inter) - inter)};
}

// numerator / denominator but for a few units in the last place; infinity if the denominator is huge.
template <typename T>
__device__ __forceinline__ T approximate_quotient(T numerator, T denominator) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(T) == sizeof(float))
    return denominator < 1e37f ? __fdividef(numerator, denominator) : INFINITY;  // it gives 0 for some above 1e37
#endif
  return numerator / denominator;
}

// A prior and its IoU with a ground truth; the IoU is 0 if there is none.
template <typename T>
struct PriorIou {
  T iou;
  int64_t prior;

  __device__ __forceinline__ bool precedes(const PriorIou& other) const {
    return iou > other.iou || (iou == other.iou && iou > T(0) && prior < other.prior);
  }
};

template <typename T>
__device__ __forceinline__ PriorIou<T> shuffle_xor(const PriorIou<T>& best, int step) {
  return {ssd_ops::shuffle_xor(best.iou, step), ssd_ops::shuffle_xor(static_cast<long long>(best.prior), step)};
}

// The maximum over the warp of values of 0 or more; all lanes get it.
template <typename T>
__device__ __forceinline__ T warp_max_nonnegative(T value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return from_bits<float>(warp_max(to_bits(value)));  // the bits of such floats sort like the floats
  } else {
    return warp_reduce(value, [](T own, T other) { return greater(own, other); });
  }
}

// Searches the best prior of one ground truth among `candidates`: assigned(prior) is the ground truth that a prior is
// assigned to, and accepts(its box, IoU, assigned(prior)) whether it is a candidate. One search per warp: each lane
// keeps in `best` the best of every 32nd prior.
template <typename T, typename Candidates>
struct BestPriorSearch {
  static constexpr sort_key_t<T> kTileMask = 511;  // the lowest bits of a bound are its tile among those of the warp
  static constexpr T kSmallestNormal = std::numeric_limits<T>::min();
  static_assert(kTilesPerLane * kWarpSize <= kTileMask + 1, "a tile fits into the bits of the mask");

  const CudaMatchParams<T>& params;
  const Box<T> box;
  const Candidates& candidates;
  const T box_area = area(box);
  PriorIou<T> best{0, kNoPrior};
  T best_iou = 0;  // the highest of all lanes

  // The bound of a tile with `tile`, its number among those of the warp, in its lowest bits, so that the maximum of the
  // bounds also says which tile has it. This and the inexact division lower the bound by less than iou_bound() has
  // added. Subnormal bounds, whose lowest bits are significant, are increased to the smallest normal number. 0 if no
  // prior of the tile overlaps the box.
  __device__ __forceinline__ T bound_with_tile(const PriorTile<T>& priors, int tile) const {
    const IouBound<T> bound = iou_bound(box, box_area, priors);
    const T iou = approximate_quotient(bound.inter, bound.union_area);
    // An overflow may give NaN or infinity: such a tile is visited first.
    const T bounded = iou < T(2) ? greater(iou, kSmallestNormal) : T(2);
    const T result = from_bits<T>((to_bits(bounded) & ~kTileMask) | static_cast<unsigned>(tile));
    return bound.reaches(T(0)) ? result : T(0);
  }

  // Compares with the priors of some tiles, -1 for none. All priors are loaded before the first is compared.
  __device__ __forceinline__ void compare_with(const int64_t (&tiles)[kTilesAtOnce]) {
    int64_t prior[kTilesAtOnce];
    Box<T> prior_box[kTilesAtOnce];
    int64_t assigned[kTilesAtOnce];
#pragma unroll
    for (int i = 0; i < kTilesAtOnce; ++i) {
      prior[i] = tiles[i] * kPriorTile + threadIdx.x % kWarpSize;
      const bool exists = tiles[i] >= 0 && prior[i] < params.num_priors;
      prior_box[i] = exists ? params.priors[prior[i]] : Box<T>{};  // IoU 0
      assigned[i] = exists ? candidates.assigned(prior[i]) : -1;
    }
#pragma unroll
    for (int i = 0; i < kTilesAtOnce; ++i) {
      const PriorIou<T> own{matching_iou(box, prior_box[i], box_area, area(prior_box[i])), prior[i]};
      if (own.precedes(best) && candidates.accepts(prior_box[i], own.iou, assigned[i])) best = own;
    }
    best_iou = warp_max_nonnegative(best.iou);
  }

  // Removes the highest of the bounds and returns its tile, -1 if no tile may have a better prior.
  __device__ __forceinline__ int64_t pop_tile(T (&iou_bounds)[kTilesPerLane], int64_t first) const {
    T lane_max = iou_bounds[0];
#pragma unroll
    for (int k = 1; k < kTilesPerLane; ++k) lane_max = greater(iou_bounds[k], lane_max);
    const T bound = warp_max_nonnegative(lane_max);
    if (bound == T(0) || bound < best_iou) return -1;
#pragma unroll
    for (int k = 0; k < kTilesPerLane; ++k)
      if (iou_bounds[k] == bound) iou_bounds[k] = T(0);
    return first + static_cast<int>(to_bits(bound) & kTileMask);
  }

  // Compares with the tiles from `first` on, kTilesPerLane * kWarpSize of them, by descending bound.
  __device__ __forceinline__ void compare_with_tiles(int64_t first) {
    const int64_t num_tiles = num_prior_tiles(params.num_priors);
    const int lane = threadIdx.x % kWarpSize;
    T iou_bounds[kTilesPerLane];  // 0 for a tile that is not to be visited
#pragma unroll
    for (int k = 0; k < kTilesPerLane; ++k) {
      const int tile = k * kWarpSize + lane;
      iou_bounds[k] = first + tile < num_tiles ? bound_with_tile(params.tiles[first + tile], tile) : T(0);
    }
    for (;;) {
      int64_t tiles[kTilesAtOnce];
#pragma unroll
      for (int i = 0; i < kTilesAtOnce; ++i) tiles[i] = pop_tile(iou_bounds, first);
      if (tiles[0] < 0) return;
      compare_with(tiles);
    }
  }

  // The best of all priors; ties go to the lowest. All lanes get it.
  __device__ __forceinline__ PriorIou<T> run() {
    for (int64_t first = 0; first < num_prior_tiles(params.num_priors); first += kTilesPerLane * kWarpSize)
      compare_with_tiles(first);
    return warp_best(best);
  }

  __device__ static PriorIou<T> warp_best(PriorIou<T> own) {
    return warp_reduce(own, [](const PriorIou<T>& a, const PriorIou<T>& b) { return b.precedes(a) ? b : a; });
  }
};

// The best of the candidates for `box`, see BestPriorSearch; all lanes of a warp call it and get it.
template <typename T, typename Candidates>
__device__ __forceinline__ PriorIou<T> find_best_prior(const CudaMatchParams<T>& params, const Box<T>& box,
                                                       const Candidates& candidates) {
  return BestPriorSearch<T, Candidates>{params, box, candidates}.run();
}

}  // namespace
}  // namespace ssd_ops
