// Read in this order: match_priors.h (the parameters), this file, best_prior.cuh (how the best prior of a ground truth
// is found), deferred_acceptance.cuh (how every ground truth is assigned a prior of its own).
//
// Plan: three launches for the whole batch; two if the rule assigns no priors to ground truths. Warps work
// independently of each other; only assign_kernel has block barriers.
//
// prepare_kernel: one warp per PriorTile of 32 priors, and one warp per clamped offset.
//
// match_kernel: the first warps find the best prior of one ground truth each. The others match one tile of priors with
// the ground truths of one image, one prior per lane, with its best ground truth in registers. To skip ground truths,
// each lane first tests one of them against the bounds of the tile; the warp compares its priors only with those that
// may reach the threshold, since no other can be a match. Then the matches by threshold are written.
//
// assign_kernel: one or more blocks per image assign priors to its ground truths (deferred_acceptance.cuh).
#include "core/levels.h"
#include "cuda/common/last_block.cuh"
#include "cuda/match/deferred_acceptance.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
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
  for (int64_t b = global_thread_index(); b < params.num_images; b += num_global_threads()) *params.ticket(b) = 0;
}

// Called by one warp.
template <typename T>
__device__ void write_best_prior(const CudaMatchParams<T>& params, int64_t packed_gt) {
  PriorIou<T> best{0, kNoPrior};
  if (!params.ignored(packed_gt))
    best = find_best_prior(params, params.gt_boxes[packed_gt], [](int64_t, const Box<T>&, T) { return true; });
  if (threadIdx.x % kWarpSize == 0) params.gt_states()[packed_gt] = best.prior;
}

// The best match of one prior.
template <typename T>
struct PriorMatch {
  T iou;                  // with the best ground truth; anything below the threshold if none reaches that
  int64_t gt;             // its index in the image
  bool overlaps_ignored;  // whether the prior reaches the threshold with an ignored ground truth
};

// Matches the priors of a tile with the packed ground truths begin .. end - 1; `box` is the prior of the lane. All
// lanes of a warp call it.
template <typename T>
__device__ PriorMatch<T> match_tile(const CudaMatchParams<T>& params, const PriorTile<T>& tile, const Box<T>& box,
                                    int64_t begin, int64_t end) {
  const T prior_area = area(box);
  PriorMatch<T> match{T(0), 0, false};
  for (int64_t first = begin; first < end; first += kWarpSize) {
    const int64_t packed_gt = first + threadIdx.x % kWarpSize;
    bool may_match = false, ignored = false;
    if (packed_gt < end) {
      const Box<T> gt = params.gt_boxes[packed_gt];
      may_match = iou_bound(gt, area(gt), tile).reaches(params.iou_threshold);
      ignored = params.ignored(packed_gt);
    }
    const unsigned ignored_lanes = __ballot_sync(kFullMask, ignored);
    for (unsigned mask = __ballot_sync(kFullMask, may_match); mask != 0; mask &= mask - 1) {
      const int i = __ffs(static_cast<int>(mask)) - 1;
      const Box<T> gt = params.gt_boxes[first + i];
      const T iou = matching_iou(gt, box, area(gt), prior_area);
      if ((ignored_lanes >> i & 1) != 0) {
        match.overlaps_ignored = match.overlaps_ignored || iou >= params.iou_threshold;
      } else if (iou > match.iou) {
        match.iou = iou;
        match.gt = first - begin + i;
      }
    }
  }
  return match;
}

template <typename T>
__device__ void write_by_threshold(const CudaMatchParams<T>& params, int64_t image, int64_t prior, const Box<T>& box,
                                   int64_t begin, const PriorMatch<T>& match) {
  const int64_t index = image * params.num_priors + prior;
  const bool positive = match.iou >= params.iou_threshold;
  Box<T> target{};
  if (positive) target = encode(params.gt_boxes[begin + match.gt], box, CodeType::center_size, params.variances);
  params.labels[index] = positive ? params.gt_labels[begin + match.gt] : match.overlaps_ignored ? -1 : 0;
  params.gt_index[index] = positive ? match.gt : -1;
  params.loc_targets[index] = target;
}

// The first `num_searches` warps find the best priors of ground truths, the others match a tile of an image each.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    match_kernel(CudaMatchParams<T> params, int64_t num_searches) {
  wait_for_previous_kernel();
  const int64_t tiles = num_prior_tiles(params.num_priors);
  for (int64_t item = global_thread_index() / kWarpSize; item < num_searches + params.num_images * tiles;
       item += num_global_threads() / kWarpSize) {
    if (item < num_searches) {
      write_best_prior(params, item);
      continue;
    }
    const int64_t image = quotient(item - num_searches, tiles), tile = item - num_searches - image * tiles;
    const int64_t prior = tile * kPriorTile + threadIdx.x % kWarpSize;
    const Box<T> box = prior < params.num_priors ? params.priors[prior] : Box<T>{};
    const int64_t begin = params.clamped_offsets()[image], end = params.clamped_offsets()[image + 1];
    const PriorMatch<T> match = match_tile(params, params.tiles[tile], box, begin, end);
    if (prior < params.num_priors) write_by_threshold(params, image, prior, box, begin, match);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 3 : 2)
    assign_kernel(CudaMatchParams<T> params, unsigned blocks_per_image) {
  wait_for_previous_kernel();
  for (int64_t item = blockIdx.x; item < params.num_images * blocks_per_image; item += gridDim.x) {
    const int64_t image = item / blocks_per_image, block = item % blocks_per_image;
    const int64_t begin = params.clamped_offsets()[image], end = params.clamped_offsets()[image + 1];
    const bool one_block = blocks_per_image == 1;
    const DeferredAcceptance<T> acceptance{params, image, begin, end - begin, one_block};
    acceptance.assign(block * kWarps + threadIdx.x / kWarpSize, static_cast<int64_t>(blocks_per_image) * kWarps);
    __syncthreads();
    if (one_block || is_last_block(params.ticket(image), blocks_per_image)) acceptance.write_matches();
  }
}

template <typename T>
int launch_all(const CudaMatchParams<T>& params, cudaStream_t stream) {
  constexpr int64_t kMaxBlocksPerImage = 12;  // the blocks of 32 images are all resident at once on an H100
  const int64_t tiles = num_prior_tiles(params.num_priors);
  cudaError_t status =
      launch(prepare_kernel<T>, grid_blocks(tiles + params.num_images + 1, kWarps, 4096), kThreads, 0, stream, params);
  if (status != cudaSuccess) return status;
  const int64_t num_searches = params.rule != MatchRule::none ? params.num_packed_gt : 0;
  status = launch_dependent(match_kernel<T>, grid_blocks(num_searches + params.num_images * tiles, kWarps), kThreads, 0,
                            stream, params, num_searches);
  if (status != cudaSuccess || num_searches == 0) return status;
  // One warp per ground truth, on average.
  const int64_t wanted = ceil_div(num_searches, params.num_images * kWarps);
  const auto blocks = static_cast<unsigned>(wanted < kMaxBlocksPerImage ? wanted : kMaxBlocksPerImage);
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
