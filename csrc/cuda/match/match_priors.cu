// Read in this order: match_priors.h (the parameters), this file, deferred_acceptance.cuh (how every ground truth is
// assigned a prior of its own).
//
// Plan: three launches for the whole batch; two if the rule assigns no priors to ground truths.
//
// prepare_kernel: a warp computes the bounds of a tile of 32 priors, a warp one clamped offset; threads clear the keys
// of the best priors.
//
// match_kernel: a block is kThreads priors of one image; a thread is one prior, with its best ground truth in
// registers. Ground truths come in chunks of kThreads: each thread loads one, those that overlap the bounds of the
// block's priors are compacted, in order, into shared memory, and a warp skips those that do not overlap the bounds of
// its own 32 priors. For each ground truth the warps reduce the best prior into shared memory, and the block into
// global memory with one atomic maximum of IoU bits << 32 | ~prior: the highest IoU, the lowest prior of ties, whatever
// the order of the blocks. Matches by threshold are written.
//
// assign_kernel: a block assigns priors to the ground truths of one image (deferred_acceptance.cuh). An IoU of type
// double or a prior from 2^32 on does not fit the 64-bit key; then that kernel finds the best priors itself.
#include "core/ordered_key.h"
#include "cuda/common/load.cuh"
#include "cuda/common/scan.cuh"
#include "cuda/match/deferred_acceptance.cuh"
#include "cuda/match/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
static_assert(kPriorTile == kWarpSize, "a lane is a prior");

template <typename T>
__device__ void compute_tile_bounds(const CudaMatchParams<T>& params, int64_t tile) {
  const int64_t lane = threadIdx.x % kWarpSize, prior = tile * kPriorTile + lane;
  Box<T> bounds = empty_bounds<T>();
  if (prior < params.num_priors) bounds = enclose(bounds, params.priors[prior]);
  bounds = warp_bounds(bounds);
  if (lane == 0) params.tile_bounds[tile] = bounds;
}

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
  for (int64_t tile = warp; tile < num_prior_tiles(params.num_priors); tile += warps) compute_tile_bounds(params, tile);
  for (int64_t b = warp; b <= params.num_images; b += warps) compute_clamped_offset(params, b);
  for (int64_t i = global_thread_index(); i < params.num_packed_gt; i += num_global_threads())
    params.best_prior_keys()[i] = 0;
}

// The ground truths of one chunk that overlap the bounds of the block's priors, in order.
template <typename T>
struct OverlappingGts {
  Box<T> box[kThreads];
  T area[kThreads];
  unsigned long long best_prior_key[kThreads];  // of the priors of the block
  int index[kThreads];                          // in the chunk
  bool ignored[kThreads];
};

// Loads the ground truths first .. end - 1 (at most kThreads) and compacts those that overlap `bounds`; returns their
// number.
template <typename T>
__device__ int load_overlapping_gts(const CudaMatchParams<T>& params, OverlappingGts<T>& gts, int64_t first,
                                    int64_t end, const Box<T>& bounds) {
  const int64_t packed_gt = first + threadIdx.x;
  Box<T> box{};
  bool overlaps_block = false;
  if (packed_gt < end) {
    box = params.gt_boxes[packed_gt];
    overlaps_block = overlaps(box, bounds);
  }
  int count;
  // This synchronizes, so that the previous chunk may be overwritten.
  const int slot = block_exclusive_count(overlaps_block, &count);
  if (overlaps_block) {
    gts.box[slot] = box;
    gts.area[slot] = area(box);
    gts.best_prior_key[slot] = 0;
    gts.index[slot] = static_cast<int>(threadIdx.x);
    gts.ignored[slot] = params.ignored(packed_gt);
  }
  __syncthreads();
  return count;
}

// Reduces the IoUs of the warp's priors with one ground truth into the key of its best prior; `first_prior` is that of
// lane 0.
__device__ __forceinline__ void update_best_prior(unsigned long long* best, float iou, int64_t first_prior) {
  const unsigned bits = to_bits(iou);  // IoUs are 0 or more: their bits have their order
  const unsigned max = warp_max(bits);
  if (max == 0) return;
  const int lane = __ffs(static_cast<int>(__ballot_sync(kFullMask, bits == max))) - 1;
  if (threadIdx.x % kWarpSize != 0) return;
  const auto prior = static_cast<unsigned>(first_prior + lane);
  atomicMax(best, static_cast<unsigned long long>(max) << 32 | static_cast<unsigned>(~prior));
}

// The best match of one prior.
template <typename T>
struct PriorMatch {
  T iou;                  // with the best ground truth, 0 none
  int64_t gt;             // its index in the image
  bool overlaps_ignored;  // whether the prior reaches the threshold with an ignored ground truth
};

// `find_best_priors`: finds the best prior of each ground truth too; never set for doubles. All threads of the block
// call it.
template <typename T>
__device__ PriorMatch<T> match_prior(const CudaMatchParams<T>& params, OverlappingGts<T>& gts, int64_t prior,
                                     int64_t begin, int64_t end, bool find_best_priors) {
  const int64_t tile = prior / kPriorTile, num_tiles = num_prior_tiles(params.num_priors);
  const int64_t first_tile = tile - threadIdx.x / kWarpSize;  // of the block
  Box<T> block_bounds = empty_bounds<T>();
  for (int64_t t = first_tile; t < first_tile + kWarps && t < num_tiles; ++t)
    block_bounds = enclose(block_bounds, params.tile_bounds[t]);
  const Box<T> tile_bounds = tile < num_tiles ? params.tile_bounds[tile] : empty_bounds<T>();
  const Box<T> box = prior < params.num_priors ? params.priors[prior] : Box<T>{};
  const T prior_area = area(box);
  PriorMatch<T> match{T(0), 0, false};
  for (int64_t chunk = begin; chunk < end; chunk += kThreads) {
    const int count = load_overlapping_gts(params, gts, chunk, end, block_bounds);
    for (int first = 0; first < count; first += kWarpSize) {
      const int own = first + static_cast<int>(threadIdx.x) % kWarpSize;
      unsigned mask = __ballot_sync(kFullMask, own < count && overlaps(gts.box[own], tile_bounds));
      for (; mask != 0; mask &= mask - 1) {
        const int i = first + __ffs(static_cast<int>(mask)) - 1;
        const T iou = matching_iou(gts.box[i], box, gts.area[i], prior_area);
        if (gts.ignored[i]) {
          match.overlaps_ignored = match.overlaps_ignored || iou >= params.iou_threshold;
          continue;
        }
        if (iou > match.iou) {
          match.iou = iou;
          match.gt = chunk - begin + gts.index[i];
        }
        if constexpr (sizeof(T) == sizeof(float))
          if (find_best_priors) update_best_prior(&gts.best_prior_key[i], iou, tile * kPriorTile);
      }
    }
    if (!find_best_priors) continue;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count && gts.best_prior_key[threadIdx.x] != 0)
      atomicMax(params.best_prior_keys() + chunk + gts.index[threadIdx.x], gts.best_prior_key[threadIdx.x]);
  }
  return match;
}

template <typename T>
__device__ void write_by_threshold(const CudaMatchParams<T>& params, int64_t image, int64_t prior, int64_t begin,
                                   const PriorMatch<T>& match) {
  const int64_t index = image * params.num_priors + prior;
  const bool positive = match.iou >= params.iou_threshold;
  Box<T> target{};
  if (positive)
    target = encode(params.gt_boxes[begin + match.gt], params.priors[prior], CodeType::center_size, params.variances);
  params.labels[index] = positive ? params.gt_labels[begin + match.gt] : match.overlaps_ignored ? -1 : 0;
  params.gt_index[index] = positive ? match.gt : -1;
  params.loc_targets[index] = target;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    match_kernel(CudaMatchParams<T> params, int64_t blocks_per_image, bool find_best_priors) {
  __shared__ OverlappingGts<T> gts;
  wait_for_previous_kernel();
  for (int64_t work_item = blockIdx.x; work_item < params.num_images * blocks_per_image; work_item += gridDim.x) {
    const int64_t image = work_item / blocks_per_image, prior = work_item % blocks_per_image * kThreads + threadIdx.x;
    const int64_t begin = params.clamped_offsets()[image], end = params.clamped_offsets()[image + 1];
    const PriorMatch<T> match = match_prior(params, gts, prior, begin, end, find_best_priors);
    if (prior < params.num_priors) write_by_threshold(params, image, prior, begin, match);
  }
}

template <typename T>
__global__ void __launch_bounds__(kAssignThreads<T>, 1) assign_kernel(CudaMatchParams<T> params, bool has_best_priors) {
  wait_for_previous_kernel();
  for (int64_t image = blockIdx.x; image < params.num_images; image += gridDim.x) {
    const int64_t begin = params.clamped_offsets()[image], end = params.clamped_offsets()[image + 1];
    if (begin < end) DeferredAcceptance<T>{params, image, begin, end - begin}.run(has_best_priors);
  }
}

template <typename T>
int launch_all(const CudaMatchParams<T>& params, cudaStream_t stream) {
  const int64_t warps = num_prior_tiles(params.num_priors) + params.num_images + 1;
  const int64_t threads = warps * kWarpSize > params.num_packed_gt ? warps * kWarpSize : params.num_packed_gt;
  cudaError_t status = launch(prepare_kernel<T>, grid_blocks(threads, kThreads, 4096), kThreads, 0, stream, params);
  if (status != cudaSuccess) return status;
  const int64_t blocks = ceil_div(params.num_priors, kThreads);
  const bool find_best_priors =
      sizeof(T) == sizeof(float) && params.rule != MatchRule::none && params.num_priors < (int64_t{1} << 32);
  status = launch_dependent(match_kernel<T>, grid_blocks(params.num_images * blocks, 1), kThreads, 0, stream, params,
                            blocks, find_best_priors);
  if (status != cudaSuccess || params.rule == MatchRule::none || params.num_packed_gt == 0) return status;
  return launch_dependent(assign_kernel<T>, grid_blocks(params.num_images, 1), kAssignThreads<T>, 0, stream, params,
                          find_best_priors);
}

}  // namespace

int launch_match_priors(const CudaMatchParams<float>& params, CUstream_st* stream) {
  return launch_all(params, stream);
}
int launch_match_priors(const CudaMatchParams<double>& params, CUstream_st* stream) {
  return launch_all(params, stream);
}

}  // namespace ssd_ops
