// The best prior of a ground truth, found by a warp without comparing it with most priors.
//
// Plan: a lane bounds the IoU of the ground truth with all priors of a tile, for kTilesPerLane tiles at once. The warp
// then compares the ground truth with the 32 priors of the tile whose bound is the highest, and after that only with
// those of tiles whose bound is not below the best IoU so far: about a dozen of the 273 tiles of SSD300.
#pragma once

#include <limits>

#include "core/ordered_key.h"
#include "cuda/common/reduce.cuh"
#include "cuda/match/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int64_t kNoPrior = -1;
constexpr int kTilesAtOnce = 2;   // whose priors are on their way together
constexpr int kTilesPerLane = 9;  // 288 tiles at once, 9,216 priors

template <typename T>
__device__ PriorTile<T> make_prior_tile(const CudaMatchParams<T>& params, int64_t tile) {
  const int64_t prior = tile * kPriorTile + threadIdx.x % kWarpSize;
  PriorTile<T> result{empty_bounds<T>(), T(0), T(0), T(INFINITY)};
  if (prior < params.num_priors) {
    const Box<T> box = params.priors[prior];
    // NaN changes nothing: such a prior has an IoU of 0.
    result = {enclose(result.bounds, box), greater(box.x2 - box.x1, T(0)), greater(box.y2 - box.y1, T(0)),
              lesser(area(box), T(INFINITY))};
  }
  const auto greatest = [](T own, T other) { return greater(own, other); };
  const auto least = [](T own, T other) { return lesser(own, other); };
  return {warp_bounds(result.bounds), warp_reduce(result.max_width, greatest), warp_reduce(result.max_height, greatest),
          warp_reduce(result.min_area, least)};
}

// `inter` / `union_area` is at least the IoU of a box with each prior of a tile.
template <typename T>
struct IouBound {
  T inter, union_area;

  // NaN counts as reaching, and so must what is greater than every number.
  __device__ __forceinline__ bool reaches(T iou) const { return inter > T(0) && !(inter < iou * union_area); }
};

// An intersection is no wider than that with the bounds of the tile and than the widest prior. The IoU grows with it,
// and falls with the area of the prior, which is at least that of the intersection. Rounding is monotonic, except that
// the sums here are rounded otherwise than those of matching_iou(): `inter` is raised by far more than that.
template <typename T>
__device__ __forceinline__ IouBound<T> iou_bound(const Box<T>& box, T box_area, const PriorTile<T>& tile) {
  const T width = clamp_to_zero(lesser(box.x2, tile.bounds.x2) - greater(box.x1, tile.bounds.x1));
  const T height = clamp_to_zero(lesser(box.y2, tile.bounds.y2) - greater(box.y1, tile.bounds.y1));
  const T inter = lesser(width, tile.max_width) * lesser(height, tile.max_height);
  return {inter * T(1.00001), box_area + (greater(tile.min_area, inter) - inter)};
}

// A prior and its IoU with a ground truth; the IoU is 0 if there is none.
template <typename T>
struct Candidate {
  T iou;
  int64_t prior;

  __device__ __forceinline__ bool precedes(const Candidate& other) const {
    return iou > other.iou || (iou == other.iou && iou > T(0) && prior < other.prior);
  }
};

// The greatest value of a warp, for all lanes. The values are 0 or more.
template <typename T>
__device__ __forceinline__ T warp_greatest(T value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return from_bits<float>(warp_max(to_bits(value)));  // which have the order of the values
  } else {
    return warp_reduce(value, [](T own, T other) { return greater(own, other); });
  }
}

// Searches the best prior of one ground truth among those for which accepts(prior, its box, IoU) is true. A warp has
// this object, a lane the best of every 32nd prior in `best`.
template <typename T, typename Accepts>
struct BestPriorSearch {
  static constexpr sort_key_t<T> kNumberBits = 15;
  static constexpr T kSmallestNormal = std::numeric_limits<T>::min();
  static_assert(kTilesPerLane <= kNumberBits + 1, "a number fits");

  const CudaMatchParams<T>& params;
  const Box<T> box;
  const Accepts& accepts;
  const T box_area = area(box);
  Candidate<T> best{0, kNoPrior};
  T best_iou = 0;  // of all lanes

  // The bound of a tile. Its lowest bits become `number`, so that the greatest bound names its tile; this lowers it by
  // less than iou_bound() has added. Subnormal bounds, whose lowest bits count, are raised to the smallest normal
  // number.
  __device__ __forceinline__ T numbered_bound(const PriorTile<T>& tile, int number) const {
    const IouBound<T> bound = iou_bound(box, box_area, tile);
    if (!bound.reaches(T(0))) return T(0);
    const T iou = bound.inter / bound.union_area;
    // An overflow may give NaN: then this tile comes first.
    const T bounded = iou < T(2) ? greater(iou, kSmallestNormal) : T(2);
    return from_bits<T>((to_bits(bounded) & ~kNumberBits) | static_cast<unsigned>(number));
  }

  // A tile of -1 is none. The priors of all are loaded before the first is compared.
  __device__ __forceinline__ void compare_with(const int64_t (&tiles)[kTilesAtOnce]) {
    int64_t prior[kTilesAtOnce];
    Box<T> prior_box[kTilesAtOnce];
#pragma unroll
    for (int i = 0; i < kTilesAtOnce; ++i) {
      prior[i] = tiles[i] * kPriorTile + threadIdx.x % kWarpSize;
      const bool exists = tiles[i] >= 0 && prior[i] < params.num_priors;
      prior_box[i] = exists ? params.priors[prior[i]] : Box<T>{};  // IoU 0
    }
#pragma unroll
    for (int i = 0; i < kTilesAtOnce; ++i) {
      const Candidate<T> candidate{matching_iou(box, prior_box[i], box_area, area(prior_box[i])), prior[i]};
      if (candidate.precedes(best) && accepts(prior[i], prior_box[i], candidate.iou)) best = candidate;
    }
    best_iou = warp_greatest(best.iou);
  }

  // Takes the tile with the highest bound, -1 if none may have a better prior.
  __device__ __forceinline__ int64_t take_tile(T (&bounds)[kTilesPerLane], int64_t first) const {
    T highest = bounds[0];
#pragma unroll
    for (int k = 1; k < kTilesPerLane; ++k) highest = greater(bounds[k], highest);
    const T bound = warp_greatest(highest);
    if (bound == T(0) || bound < best_iou) return -1;
    const int owner = __ffs(static_cast<int>(__ballot_sync(kFullMask, highest == bound))) - 1;
#pragma unroll
    for (int k = 0; k < kTilesPerLane; ++k)
      if (static_cast<int>(threadIdx.x) % kWarpSize == owner && bounds[k] == bound) bounds[k] = T(0);
    return first + static_cast<int>(to_bits(bound) & kNumberBits) * kWarpSize + owner;
  }

  // Compares with the tiles from `first` on, as many as a warp bounds at once, those with the highest bounds first.
  __device__ __forceinline__ void compare_with_tiles(int64_t first) {
    const int64_t num_tiles = num_prior_tiles(params.num_priors);
    const int lane = threadIdx.x % kWarpSize;
    T bounds[kTilesPerLane];  // 0: nothing to compare with
#pragma unroll
    for (int k = 0; k < kTilesPerLane; ++k) {
      const int64_t tile = first + k * kWarpSize + lane;
      bounds[k] = tile < num_tiles ? numbered_bound(params.tiles[tile], k) : T(0);
    }
    for (;;) {
      int64_t tiles[kTilesAtOnce];
#pragma unroll
      for (int i = 0; i < kTilesAtOnce; ++i) tiles[i] = take_tile(bounds, first);
      if (tiles[0] < 0) return;
      compare_with(tiles);
    }
  }

  // The best of all priors, the lowest of ties, for all lanes.
  __device__ __forceinline__ Candidate<T> run() {
    for (int64_t first = 0; first < num_prior_tiles(params.num_priors); first += kTilesPerLane * kWarpSize)
      compare_with_tiles(first);
    return warp_reduce_candidates(best);
  }

  __device__ static Candidate<T> warp_reduce_candidates(Candidate<T> own) {
    for (int step = kWarpSize / 2; step > 0; step /= 2) {
      const Candidate<T> other{__shfl_xor_sync(kFullMask, own.iou, step),
                               __shfl_xor_sync(kFullMask, static_cast<long long>(own.prior), step)};
      if (other.precedes(own)) own = other;
    }
    return own;
  }
};

// The best prior of `box` that accepts(prior, its box, IoU); all lanes of a warp call it and get it.
template <typename T, typename Accepts>
__device__ __forceinline__ Candidate<T> find_best_prior(const CudaMatchParams<T>& params, const Box<T>& box,
                                                        const Accepts& accepts) {
  return BestPriorSearch<T, Accepts>{params, box, accepts}.run();
}

}  // namespace
}  // namespace ssd_ops
