// Three launches for the whole batch, whatever its objects; two where objects claim nothing.
//
// prepare_kernel: a warp per tile of 32 priors finds the box around them; a warp per image finds its objects in the
// offsets; threads clear the scratch.
//
// match_kernel: a block is kThreads priors of one image, a thread is one prior with its best object in registers.
// Objects come in chunks of kThreads: each thread loads one, those that touch the box around the block's priors are
// packed, in order, into shared memory, and a warp skips those that do not touch the box around its own 32 priors. For
// each object the warps leave their best prior in shared memory and the block passes it on with one atomic maximum of
// IoU bits << 32 | ~prior: the highest IoU, the lowest prior of equals, in whatever order blocks come. Results by
// threshold are written.
//
// claims_kernel: a block is an image and settles the claims of its objects (deferred_acceptance.cuh). Doubles do not
// fit such a key: for them the claims look for the best priors themselves.
#include "cuda/common/load.cuh"
#include "cuda/match/deferred_acceptance.cuh"
#include "cuda/match/match_priors.h"

namespace ssd_ops {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
static_assert(kWarpTile == kWarpSize, "a lane is a prior");

template <typename T>
__device__ __forceinline__ T infinity() {
  return T(INFINITY);
}

// Grows `around` by `box`; NaN widens nothing, for such a box overlaps nothing.
template <typename T>
__device__ __forceinline__ void grow(Box<T>& around, const Box<T>& box) {
  around = {lesser(box.x1, around.x1), lesser(box.y1, around.y1), greater(box.x2, around.x2),
            greater(box.y2, around.y2)};
}

template <typename T>
__device__ __forceinline__ Box<T> nothing() {
  return {infinity<T>(), infinity<T>(), -infinity<T>(), -infinity<T>()};
}

template <typename T>
__device__ void find_tile_box(const CudaMatchTask<T>& task, int64_t tile) {
  const int64_t lane = threadIdx.x % kWarpSize, prior = tile * kWarpTile + lane;
  Box<T> around = nothing<T>();
  if (prior < task.count) grow(around, task.priors[prior]);
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    grow(around, Box<T>{__shfl_xor_sync(kFullMask, around.x1, step), __shfl_xor_sync(kFullMask, around.y1, step),
                        __shfl_xor_sync(kFullMask, around.x2, step), __shfl_xor_sync(kFullMask, around.y2, step)});
  }
  if (lane == 0) task.tile_boxes[tile] = around;
}

// bounds[b] is the highest of offsets[0 .. b], cut to 0 .. objects: the offsets themselves if they are good.
template <typename T>
__device__ void find_bound(const CudaMatchTask<T>& task, int64_t b) {
  const int64_t lane = threadIdx.x % kWarpSize;
  long long most = 0;
  for (int64_t i = lane; i <= b; i += kWarpSize) most = task.offsets[i] > most ? task.offsets[i] : most;
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const long long other = __shfl_xor_sync(kFullMask, most, step);
    most = other > most ? other : most;
  }
  if (lane == 0) task.bounds()[b] = most < task.objects ? most : task.objects;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) prepare_kernel(CudaMatchTask<T> task) {
  await_previous();
  const int64_t warp = global_thread() / kWarpSize, warps = global_threads() / kWarpSize;
  for (int64_t tile = warp; tile < ceil_div(task.count, kWarpTile); tile += warps) find_tile_box(task, tile);
  for (int64_t b = warp; b <= task.batch; b += warps) find_bound(task, b);
  for (int64_t i = global_thread(); i < task.objects; i += global_threads()) task.best()[i] = 0;
}

// The objects of one chunk that touch the block's priors, in order.
template <typename T>
struct Near {
  Box<T> box[kThreads];
  T area[kThreads];
  unsigned long long best[kThreads];  // key of the best prior of the block
  int place[kThreads];                // in the chunk
  bool ignored[kThreads];
  int before[kWarps + 1];  // how many of them the warps before this one found
};

// Packs the objects first .. end - 1 (kThreads at most) that touch `around`; returns how many they are.
template <typename T>
__device__ int pack_near(const CudaMatchTask<T>& task, Near<T>& near, int64_t first, int64_t end,
                         const Box<T>& around) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t object = first + threadIdx.x;
  Box<T> box{};
  bool is_near = false;
  if (object < end) {
    box = task.gt_boxes[object];
    is_near = touches(box, around);
  }
  const unsigned mask = __ballot_sync(kFullMask, is_near);
  __syncthreads();  // the chunk before this one is done with
  if (lane == 0) near.before[warp + 1] = __popc(mask);
  if (threadIdx.x == 0) near.before[0] = 0;
  __syncthreads();
  int place = 0, count = 0;
  for (int w = 0; w <= kWarps; ++w) {
    count += near.before[w];
    if (w == warp) place = count;
  }
  if (is_near) {
    place += __popc(mask & ((1u << lane) - 1));
    near.box[place] = box;
    near.area[place] = area(box);
    near.best[place] = 0;
    near.place[place] = static_cast<int>(threadIdx.x);
    near.ignored[place] = task.ignored(object);
  }
  __syncthreads();
  return count;
}

// The highest value of the warp, to all lanes.
__device__ __forceinline__ unsigned warp_max(unsigned value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  for (int step = kWarpSize / 2; step > 0; step /= 2) {
    const unsigned other = __shfl_xor_sync(kFullMask, value, step);
    value = other > value ? other : value;
  }
  return value;
#else
  return __reduce_max_sync(kFullMask, value);
#endif
}

// Leaves the best prior of the warp in `best`; prior0 is the prior of lane 0.
__device__ __forceinline__ void keep_best(unsigned long long* best, float value, int64_t prior0) {
  const unsigned bits = __float_as_uint(value);  // values are 0 or more: their bits have their order
  const unsigned most = warp_max(bits);
  if (most == 0) return;
  const int lane = __ffs(static_cast<int>(__ballot_sync(kFullMask, bits == most))) - 1;
  if (threadIdx.x % kWarpSize != 0) return;
  const auto prior = static_cast<unsigned>(prior0 + lane);
  atomicMax(best, static_cast<unsigned long long>(most) << 32 | static_cast<unsigned>(~prior));
}
__device__ __forceinline__ void keep_best(unsigned long long*, double, int64_t) {}

// What one prior has found.
template <typename T>
struct Found {
  T iou;           // with the best object, 0 none
  int64_t object;  // its number in the image
  bool near_ignored;
};

template <typename T>
__device__ Found<T> match_prior(const CudaMatchTask<T>& task, Near<T>& near, int64_t prior, int64_t begin, int64_t end,
                                bool keyed) {
  const int64_t tile = prior / kWarpTile, tiles = ceil_div(task.count, kWarpTile);
  const int64_t block_tile = tile - threadIdx.x / kWarpSize;
  Box<T> around = nothing<T>();
  for (int64_t t = block_tile; t < block_tile + kWarps && t < tiles; ++t) grow(around, task.tile_boxes[t]);
  const Box<T> warp_box = tile < tiles ? task.tile_boxes[tile] : nothing<T>();
  const Box<T> box = prior < task.count ? task.priors[prior] : Box<T>{};
  const T area_of_prior = area(box);
  Found<T> found{T(0), 0, false};
  for (int64_t chunk = begin; chunk < end; chunk += kThreads) {
    const int count = pack_near(task, near, chunk, end, around);
    for (int first = 0; first < count; first += kWarpSize) {
      const int mine = first + static_cast<int>(threadIdx.x) % kWarpSize;
      unsigned mask = __ballot_sync(kFullMask, mine < count && touches(near.box[mine], warp_box));
      for (; mask != 0; mask &= mask - 1) {
        const int i = first + __ffs(static_cast<int>(mask)) - 1;
        const T value = overlap(near.box[i], box, near.area[i], area_of_prior);
        if (near.ignored[i]) {
          found.near_ignored = found.near_ignored || value >= task.threshold;
          continue;
        }
        if (value > found.iou) {
          found.iou = value;
          found.object = chunk - begin + near.place[i];
        }
        if (keyed) keep_best(&near.best[i], value, tile * kWarpTile);
      }
    }
    if (!keyed) continue;
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count && near.best[threadIdx.x] != 0)
      atomicMax(reinterpret_cast<unsigned long long*>(task.best()) + chunk + near.place[threadIdx.x],
                near.best[threadIdx.x]);
  }
  return found;
}

template <typename T>
__device__ void write(const CudaMatchTask<T>& task, int64_t image, int64_t prior, int64_t begin,
                      const Found<T>& found) {
  const int64_t at = image * task.count + prior;
  const bool positive = found.iou >= task.threshold;
  Box<T> target{};
  if (positive)
    target = encode(task.gt_boxes[begin + found.object], task.priors[prior], CodeType::center_size, task.variances);
  task.labels[at] = positive ? task.gt_labels[begin + found.object] : found.near_ignored ? -1 : 0;
  task.gt_index[at] = positive ? found.object : -1;
  task.loc_targets[at] = target;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    match_kernel(CudaMatchTask<T> task, int64_t blocks_per_image, bool keyed) {
  __shared__ Near<T> near;
  await_previous();
  for (int64_t item = blockIdx.x; item < task.batch * blocks_per_image; item += gridDim.x) {
    const int64_t image = item / blocks_per_image, prior = item % blocks_per_image * kThreads + threadIdx.x;
    const int64_t begin = task.bounds()[image], end = task.bounds()[image + 1];
    const Found<T> found = match_prior(task, near, prior, begin, end, keyed);
    if (prior < task.count) write(task, image, prior, begin, found);
  }
}

template <typename T>
__global__ void __launch_bounds__(kClaimThreads<T>, 1) claims_kernel(CudaMatchTask<T> task, bool keyed) {
  await_previous();
  for (int64_t image = blockIdx.x; image < task.batch; image += gridDim.x) {
    const int64_t begin = task.bounds()[image], end = task.bounds()[image + 1];
    if (begin < end) CudaClaims<T>{task, image, begin, end - begin}.run(keyed);
  }
}

template <typename T>
int launch_both(const CudaMatchTask<T>& task, cudaStream_t stream) {
  const int64_t warps = ceil_div(task.count, kWarpTile) + task.batch + 1;
  const int64_t threads = warps * kWarpSize > task.objects ? warps * kWarpSize : task.objects;
  cudaError_t status = launch(prepare_kernel<T>, grid_blocks(threads, kThreads, 4096), kThreads, 0, stream, task);
  if (status != cudaSuccess) return status;
  const int64_t blocks = ceil_div(task.count, kThreads);
  const bool keyed = sizeof(T) == sizeof(float) && task.rule != ClaimRule::none && task.count < (int64_t{1} << 32);
  status = launch_next(match_kernel<T>, grid_blocks(task.batch * blocks, 1), kThreads, 0, stream, task, blocks, keyed);
  if (status != cudaSuccess || task.rule == ClaimRule::none || task.objects == 0) return status;
  return launch_next(claims_kernel<T>, grid_blocks(task.batch, 1), kClaimThreads<T>, 0, stream, task, keyed);
}

}  // namespace

int launch_match_priors(const CudaMatchTask<float>& task, CUstream_st* stream) { return launch_both(task, stream); }
int launch_match_priors(const CudaMatchTask<double>& task, CUstream_st* stream) { return launch_both(task, stream); }

}  // namespace ssd_ops
