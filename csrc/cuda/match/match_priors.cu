// Read in this order: match_priors.h (the parameters), this file, best_prior.cuh (how the best prior of a ground truth
// is found), deferred_acceptance.cuh (how every ground truth is assigned a prior of its own).
//
// Plan: two or three launches for the whole batch.
//
// prepare_kernel: one warp per PriorTile of 32 priors, and one warp per clamped offset; it also writes the zeros that
// match_kernel begins with, the states of the ground truths and the tickets.
//
// match_kernel: one or more warps match a tile of priors with the ground truths of one image, one prior per lane, with
// its best ground truth in registers. To skip ground truths, each lane first tests one of them against the bounds of
// the tile; the warp compares its priors only with those that may reach the threshold, since no other can be a match.
// It also records the best prior of each of these ground truths. Then the matches by threshold are written. Few ground
// truths are compared with every tile that they overlap, so that all best priors are found, and the last block of an
// image assigns them.
//
// assign_kernel, otherwise: one or more blocks per image assign priors to its ground truths (deferred_acceptance.cuh).
// The best prior of a ground truth that reaches the threshold with no prior is searched there.
#include "core/levels.h"
#include "cuda/common/last_block.cuh"
#include "cuda/match/deferred_acceptance.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = kMatchThreads, kWarps = kThreads / kWarpSize;
static_assert(kPriorTile == kWarpSize, "one prior per lane");

// clamped_offsets[b] is the maximum of offsets[0 .. b], clamped to 0 .. num_packed_gt: the offsets themselves if they
// are valid.
template <typename T>
__device__ void compute_clamped_offset(const CudaMatchParams<T>& params, int64_t b) {
  const int64_t lane = threadIdx.x % kWarpSize;
  long long max = 0;
  for (int64_t i = lane; i <= b; i += kWarpSize) max = params.offsets[i] > max ? params.offsets[i] : max;
  max = warp_reduce(max, [](long long own, long long other) { return other > own ? other : own; });
  if (lane == 0) params.clamped_offsets()[b] = max < params.num_packed_gt ? max : params.num_packed_gt;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(CudaMatchParams<T> params) {
  wait_for_previous_kernel();
  const int64_t warp = global_thread_index() / kWarpSize, warps = num_global_threads() / kWarpSize;
  for (int64_t tile = warp; tile < num_prior_tiles(params.num_priors); tile += warps) {
    const PriorTile<T> result = make_prior_tile(params, tile);
    if (threadIdx.x % kWarpSize == 0) params.tiles[tile] = result;
  }
  for (int64_t b = warp; b <= params.num_images; b += warps) compute_clamped_offset(params, b);
  for (int64_t i = global_thread_index(); i < params.num_packed_gt + params.num_images; i += num_global_threads()) {
    if (i < params.num_packed_gt) {
      params.gt_states()[i] = 0;
    } else {
      *params.ticket(i - params.num_packed_gt) = 0;
    }
  }
}

// The best match of one prior.
template <typename T>
struct PriorMatch {
  T iou;                  // with the best ground truth; anything below the threshold if none reaches that
  int64_t packed_gt;      // the ground truth
  bool overlaps_ignored;  // whether the prior reaches the threshold with an ignored ground truth

  __device__ void merge(const PriorMatch& other) {
    overlaps_ignored = overlaps_ignored || other.overlaps_ignored;
    if (other.iou > iou || (other.iou == iou && other.packed_gt < packed_gt)) {
      iou = other.iou;
      packed_gt = other.packed_gt;
    }
  }
};

// Compares the priors of a tile, one per lane, with ground truths.
template <typename T>
struct TileMatcher {
  const CudaMatchParams<T>& params;
  const T min_iou;  // pairs with a lower IoU are of no interest
  const int64_t prior;
  const Box<T> box;
  const T prior_area = area(box);
  PriorMatch<T> match{T(0), 0, false};

  // Called by all lanes of a warp for the same ground truth.
  __device__ __forceinline__ void compare(int64_t packed_gt, const Box<T>& gt, bool ignored) {
    const T inter = intersection(gt, box), union_area = area(gt) + prior_area - inter;
    const bool candidate = IouBound<T>{inter * kRoundingMargin<T>, union_area}.reaches(min_iou);
    if (!__any_sync(kFullMask, candidate)) return;
    const T iou = candidate ? clamp_to_zero(iou_of_areas(inter, union_area)) : T(0);
    if (ignored) {
      match.overlaps_ignored = match.overlaps_ignored || iou >= params.iou_threshold;
      return;
    }
    if (iou > match.iou) {
      match.iou = iou;
      match.packed_gt = packed_gt;
    }
    if constexpr (kRecordsBestPriors<T>) {
      const T best = warp_max_nonnegative(iou);
      if (iou == best && best > T(0) && best >= min_iou)
        atomicMax(params.gt_states() + packed_gt, encode_best_prior(iou, prior));
    }
  }

  // Compares with the packed ground truths `first` .. `first` + 31, and so on every `stride` until `end`.
  __device__ __forceinline__ void run(const PriorTile<T> tile, int64_t first, int64_t end, int stride) {
    for (; first < end; first += stride) {
      const int64_t packed_gt = first + threadIdx.x % kWarpSize;
      bool may_match = false, ignored = false;
      if (packed_gt < end) {
        const Box<T> gt = params.gt_boxes[packed_gt];
        may_match = iou_bound(gt, area(gt), tile).reaches(min_iou);
        ignored = params.ignored(packed_gt);
      }
      const unsigned ignored_lanes = __ballot_sync(kFullMask, ignored);
      unsigned mask = __ballot_sync(kFullMask, may_match);
      while (mask != 0) {  // two ground truths at a time, whose loads overlap
        const int i = __ffs(static_cast<int>(mask)) - 1;
        mask &= mask - 1;
        const int j = mask != 0 ? __ffs(static_cast<int>(mask)) - 1 : i;  // comparing twice changes nothing
        mask &= mask - 1;
        const Box<T> a = params.gt_boxes[first + i], b = params.gt_boxes[first + j];
        compare(first + i, a, (ignored_lanes >> i & 1) != 0);
        compare(first + j, b, (ignored_lanes >> j & 1) != 0);
      }
    }
  }
};

template <typename T>
__device__ void write_by_threshold(const CudaMatchParams<T>& params, int64_t image, int64_t prior, const Box<T>& box,
                                   int64_t begin, const PriorMatch<T>& match) {
  const int64_t index = image * params.num_priors + prior;
  const bool positive = match.iou >= params.iou_threshold;
  Box<T> target{};
  if (positive) target = encode(params.gt_boxes[match.packed_gt], box, CodeType::center_size, params.variances);
  params.labels[index] = positive ? params.gt_labels[match.packed_gt] : match.overlaps_ignored ? -1 : 0;
  params.gt_index[index] = positive ? match.packed_gt - begin : -1;
  params.loc_targets[index] = target;
}

// Called by block number `block` of `num_blocks` of an image, after all matches by threshold are written. `all_found`:
// match_kernel has found the best prior of every ground truth that overlaps one.
template <typename T>
__device__ void assign_image(const CudaMatchParams<T>& params, int64_t image, unsigned block, unsigned num_blocks,
                             bool all_found) {
  const int64_t begin = params.clamped_offsets()[image], end = params.clamped_offsets()[image + 1];
  const DeferredAcceptance<T> acceptance{params, image, begin, end - begin, num_blocks == 1, all_found};
  acceptance.assign(block, num_blocks);
  if (num_blocks == 1 || is_last_block(params.ticket(image), num_blocks)) acceptance.write_matches();
}

// `warps_per_tile` warps of a block match one tile of an image, each with every warps_per_tile-th 32 ground truths. If
// `assigns`, the last block of the image does what assign_kernel would do.
template <bool assigns, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? assigns ? 3 : 4 : 2)
    match_kernel(CudaMatchParams<T> params, unsigned blocks_per_image, int warps_per_tile, T min_iou) {
  __shared__ PriorMatch<T> matches[kThreads];
  wait_for_previous_kernel();
  const int warp = threadIdx.x / kWarpSize, part = warp % warps_per_tile;
  const unsigned tiles_per_block = kWarps / warps_per_tile;
  // The last priors are usually the largest and match most ground truths: those of all images come first.
  const auto num_images = static_cast<unsigned>(params.num_images);
  const unsigned block = blockIdx.x / num_images, image = blockIdx.x % num_images;
  const int64_t begin = params.clamped_offsets()[image], end = params.clamped_offsets()[image + 1];
  const int64_t tiles = num_prior_tiles(params.num_priors);
  for (int64_t first = block * tiles_per_block; first < tiles; first += blocks_per_image * tiles_per_block) {
    const int64_t tile = tiles - 1 - first - warp / warps_per_tile;
    const int64_t prior = tile * kPriorTile + threadIdx.x % kWarpSize;
    const bool exists = tile >= 0 && prior < params.num_priors;
    const Box<T> box = exists ? params.priors[prior] : Box<T>{};
    TileMatcher<T> matcher{params, min_iou, prior, box};
    if (tile >= 0) matcher.run(params.tiles[tile], begin + part * kWarpSize, end, warps_per_tile * kWarpSize);
    if (warps_per_tile > 1) {
      matches[threadIdx.x] = matcher.match;
      __syncthreads();
      for (int i = 1; i < warps_per_tile && part == 0; ++i) matcher.match.merge(matches[threadIdx.x + i * kWarpSize]);
      __syncthreads();
    }
    if (exists && part == 0) write_by_threshold(params, image, prior, box, begin, matcher.match);
  }
  if constexpr (assigns)
    if (is_last_block(params.ticket(image), blocks_per_image)) assign_image(params, image, 0, 1, true);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 3 : 2)
    assign_kernel(CudaMatchParams<T> params, unsigned blocks_per_image) {
  wait_for_previous_kernel();
  for (int64_t item = blockIdx.x; item < params.num_images * blocks_per_image; item += gridDim.x) {
    const int64_t image = item / blocks_per_image;
    assign_image(params, image, static_cast<unsigned>(item - image * blocks_per_image), blocks_per_image, false);
  }
}

template <typename T>
int launch_all(const CudaMatchParams<T>& params, cudaStream_t stream) {
  constexpr int64_t kMaxBlocksPerImage = 12;  // the blocks of 32 images are all resident at once on an H100
  constexpr int kMaxWarpsPerTile = 4, kAssignedPerBlock = 16;
  const int64_t tiles = num_prior_tiles(params.num_priors);
  cudaError_t status =
      launch(prepare_kernel<T>, grid_blocks(tiles + params.num_images + 1, kWarps, 4096), kThreads, 0, stream, params);
  if (status != cudaSuccess) return status;
  const int64_t gt_per_image = ceil_div(params.num_packed_gt, params.num_images);
  const bool assigns = params.rule != MatchRule::none && params.num_packed_gt > 0;
  if constexpr (kRecordsBestPriors<T>) {
    if (assigns && gt_per_image <= kWarpSize) {
      const unsigned blocks = grid_blocks(tiles, kWarps, kMaxBlocksPerImage);
      return launch_dependent(match_kernel<true, T>, grid_blocks(params.num_images * blocks, 1), kThreads, 0, stream,
                              params, blocks, 1, T(0));
    }
  }
  int warps_per_tile = 1;
  while (warps_per_tile < kMaxWarpsPerTile && gt_per_image > 2 * kWarpSize * warps_per_tile) warps_per_tile *= 2;
  unsigned blocks = grid_blocks(tiles, kWarps / warps_per_tile);
  status = launch_dependent(match_kernel<false, T>, grid_blocks(params.num_images * blocks, 1), kThreads, 0, stream,
                            params, blocks, warps_per_tile, params.iou_threshold);
  if (status != cudaSuccess || !assigns) return status;
  blocks = grid_blocks(gt_per_image, kAssignedPerBlock, kMaxBlocksPerImage);
  return launch_dependent(assign_kernel<T>, grid_blocks(params.num_images * blocks, 1), kThreads, 0, stream, params,
                          blocks);
}

}  // namespace

int launch_match_priors(const CudaMatchParams<float>& params, CUstream_st* stream) {
  return launch_all(params, stream);
}
int launch_match_priors(const CudaMatchParams<double>& params, CUstream_st* stream) {
  return launch_all(params, stream);
}

}  // namespace ssd_ops
