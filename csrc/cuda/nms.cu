// Plan: boxes are sorted by rank once. Then, tile after tile (the first are the first kTile), the next kTile boxes that
// are still alive are resolved among themselves, and those that are kept push: every box behind is compared with them,
// and dies if one suppresses it. Only kept boxes push and only living ones are compared, so crowded boxes cost little,
// and memory is O(n).
//
// A tile takes two launches, the first tile one. push_kernel: a thread is a box, a block compares 256 of them with the
// kept boxes of the last tile, a shared-memory load of 256 at a time; the last block to finish chooses the next tile.
// Of many boxes those that lie together come together (nms_cells.cuh), so that a block loads only the kept boxes near
// by. mask_kernel: a block compares 64 boxes of the tile with 64 before them, a bit for a pair; the last block resolves
// 64 boxes at a time: dead are those that a kept box of an earlier 64 suppresses, and among the rest one warp repeats
// "kept unless a kept one before suppresses me" until nothing changes, which is the one greedy solution. When nothing
// is left, the remaining launches find an empty tile and return.
#include "cuda/load.cuh"
#include "cuda/nms.h"
#include "cuda/nms_push.cuh"

namespace ssd_ops {
namespace {

template <typename In, typename T>
__global__ void __launch_bounds__(kThreads)
    sort_boxes_kernel(const In* boxes, const int64_t* order, const int64_t* classes, int64_t n, NmsWork<T> work,
                      int64_t* kept) {
  if (global_thread() == 0) {
    const auto first = static_cast<int>(n < kTile ? n : kTile);  // all boxes are alive: the first tile is known
    *work.state = NmsState{first, first, 0, 0};
    *kept = 0;
  }
  Box<T> centers{T(INFINITY), T(INFINITY), -T(INFINITY), -T(INFINITY)};
  for (int64_t r = global_thread(); r < n; r += global_threads()) {
    work.boxes[r] = load_box(boxes, order[r]);
    if (classes != nullptr) work.classes[r] = classes[order[r]];
    if (r < kTile) work.tile[r] = r;
    if (r % kWarpSize == 0) work.dead[r / kWarpSize] = 0;
    centers = grown(centers, center_of(work.boxes[r]));
  }
  centers = box_around(true, centers);
  if (threadIdx.x == 0) work.ranges[blockIdx.x] = centers;
}

// Keeps and writes out what is kept of the tile.
template <bool has_classes, typename T>
__device__ void resolve_tile(const NmsWork<T>& work, const int64_t* order, int count, int64_t* keep, int64_t* kept) {
  __shared__ uint64_t kept_bits[kWords];
  __shared__ bool alive[kWord];
  const int words = static_cast<int>(ceil_div(count, kWord));
  for (int s = 0; s < words; ++s) {
    {  // four threads look up the earlier words of a box
      const int row = s * kWord + threadIdx.x / 4;
      uint64_t hit = 0;
      if (row < count) {
        for (int w = threadIdx.x % 4; w < s; w += 4) hit |= work.mask[row * kWords + w] & kept_bits[w];
      }
      hit |= __shfl_xor_sync(kFullMask, hit, 1);
      hit |= __shfl_xor_sync(kFullMask, hit, 2);
      if (threadIdx.x % 4 == 0) alive[threadIdx.x / 4] = row < count && hit == 0;
    }
    __syncthreads();
    if (threadIdx.x < kWarpSize) {  // a lane has two boxes
      const int row = s * kWord + threadIdx.x;
      const bool alive0 = alive[threadIdx.x], alive1 = alive[threadIdx.x + kWarpSize];
      const uint64_t before0 = alive0 ? work.mask[row * kWords + s] : 0;
      const uint64_t before1 = alive1 ? work.mask[(row + kWarpSize) * kWords + s] : 0;
      uint64_t now = ~uint64_t(0), last;
      do {
        last = now;
        const unsigned low = __ballot_sync(kFullMask, alive0 && (before0 & last) == 0);
        const unsigned high = __ballot_sync(kFullMask, alive1 && (before1 & last) == 0);
        now = static_cast<uint64_t>(high) << kWarpSize | low;
      } while (now != last);
      if (threadIdx.x == 0) kept_bits[s] = now;
    }
    __syncthreads();
  }
  const int64_t base = *kept;
  int before = 0;
  for (int first = 0; first < count; first += kThreads) {
    const int i = first + threadIdx.x;
    const bool keeps = i < count && (kept_bits[i / kWord] >> (i % kWord) & 1) != 0;
    int total;
    const int place = before + block_sum_before(keeps, &total);
    before += total;
    if (!keeps) continue;
    const int64_t rank = work.tile[i];
    keep[base + place] = order[rank];
    work.pushed[place] = work.boxes[rank];
    if (has_classes) work.pushed_classes[place] = work.classes[rank];
  }
  __syncthreads();  // all have read *kept
  if (threadIdx.x == 0) {
    *kept = base + before;
    work.state->pushed = before;
  }
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads)
    mask_kernel(NmsWork<T> work, SuppressionRule<T> rule, const int64_t* order, int64_t* keep, int64_t* kept) {
  __shared__ Box<T> columns[kWord];
  __shared__ T areas[kWord];
  __shared__ int64_t classes[kWord];
  const int count = work.state->tile, row_word = blockIdx.y, column_word = blockIdx.x;
  if (column_word <= row_word && row_word * kWord < count) {
    if (threadIdx.x < kWord) {
      const int column = column_word * kWord + threadIdx.x;
      const int64_t rank = work.tile[column < count ? column : 0];
      columns[threadIdx.x] = work.boxes[rank];
      areas[threadIdx.x] = area(columns[threadIdx.x]);
      if (has_classes) classes[threadIdx.x] = work.classes[rank];
    }
    __syncthreads();
    constexpr int kPairs = kWord * kWord / kThreads;  // of a thread: a box and a quarter of a word
    const int in_word = threadIdx.x / 4, quarter = threadIdx.x % 4, row = row_word * kWord + in_word;
    if (row < count) {
      const int64_t rank = work.tile[row];
      const Box<T> box = work.boxes[rank];
      const T box_area = area(box);
      const int64_t box_class = has_classes ? work.classes[rank] : 0;
      unsigned bits = 0;
      for (int k = 0; k < kPairs; ++k) {
        const int column = quarter * kPairs + k;
        if (column_word == row_word && column >= in_word) break;
        if (has_classes && classes[column] != box_class) continue;
        if (suppresses(columns[column], box, areas[column], box_area, rule)) bits |= 1u << k;
      }
      reinterpret_cast<uint16_t*>(work.mask)[(row * kWords + column_word) * 4 + quarter] = static_cast<uint16_t>(bits);
    }
  }
  if (is_last_block(&work.state->ticket)) resolve_tile<has_classes>(work, order, count, keep, kept);
}

template <bool has_classes, typename T>
cudaError_t suppress(const NmsWork<T>& work, const int64_t* order, int64_t n, double iou_threshold, int64_t* keep,
                     int64_t* kept, cudaStream_t stream) {
  const SuppressionRule<T> rule = suppression_rule<T>(iou_threshold);
  const unsigned side = grid_blocks(n < kTile ? n : kTile, kWord), blocks = grid_blocks(n, kThreads, kMostBlocks);
  // Below a threshold under 0 far boxes suppress each other too.
  const bool by_cell = n >= kCellsFrom && rule.threshold >= T(0);
  auto* push = by_cell ? push_kernel<has_classes, true, T> : push_kernel<has_classes, false, T>;
  cudaError_t status = by_cell ? sort_by_cell(n, work, blocks, stream) : cudaSuccess;
  for (int64_t done = 0; done < n && status == cudaSuccess; done += kTile) {
    if (done > 0) status = launch(push, blocks, kThreads, 0, stream, n, work, rule);
    if (status != cudaSuccess) break;
    status = launch(mask_kernel<has_classes, T>, dim3(side, side), kThreads, 0, stream, work, rule, order, keep, kept);
  }
  return status;
}

}  // namespace

size_t nms_workspace_bytes(int64_t n) {
  NmsWork<double> work;  // the larger of the two
  return lay_out<double>(n, nullptr, &work);
}

int launch_nms(Dtype dtype, const void* boxes, const int64_t* order, const int64_t* classes, int64_t n,
               double iou_threshold, void* workspace, int64_t* keep, int64_t* kept, CUstream_st* stream) {
  return dispatch_dtype(dtype, [&](auto type) {
    using In = decltype(type);
    using T = compute_t<In>;
    NmsWork<T> work;
    lay_out(n, workspace, &work);
    const cudaError_t status = launch(sort_boxes_kernel<In, T>, grid_blocks(n, kThreads, kMostBlocks), kThreads, 0,
                                      stream, static_cast<const In*>(boxes), order, classes, n, work, kept);
    if (status != cudaSuccess) return status;
    return classes != nullptr ? suppress<true>(work, order, n, iou_threshold, keep, kept, stream)
                              : suppress<false>(work, order, n, iou_threshold, keep, kept, stream);
  });
}

}  // namespace ssd_ops
