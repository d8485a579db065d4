// More than kMaxFew and up to kMaxChunk boxes: all of them are one chunk, and only the kept boxes are sorted by score.
//
// Plan: after the kernels of chunk.cuh, finish_kernel writes the kept boxes in the order of input, and rank_kernel,
// which compares their scores with each other, writes each to its rank: the number of kept boxes that precede it.
#pragma once

#include "cuda/nms/launch_chunk.cuh"

namespace ssd_ops {
namespace {

template <typename Key>
struct KeptBoxes {
  Key* keys;          // [n] in the order of input
  unsigned* indices;  // [n]
  int* count;         // [1]
};

template <typename Key>
inline KeptBoxes<Key> kept_workspace(int64_t n, WorkspaceLayout& layout) {
  KeptBoxes<Key> kept;
  kept.keys = layout.array<Key>(n);
  kept.indices = layout.array<unsigned>(n);
  kept.count = layout.array<int>(1);
  return kept;
}

template <typename Key, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1)
    finish_kernel(NmsInputs in, Chunk<T> chunk, KeptBoxes<Key> kept, NmsProgress* progress) {
  __shared__ KeptIndices sorted;
  wait_for_previous_kernel();
  const int count = chunk.count();
  const int total = sort_kept(chunk, count, decide_remaining(chunk, count), sorted);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kChunkThreads) {
    const unsigned bits = sorted.bits[i / kWarpSize];
    if ((bits >> (i % kWarpSize) & 1) == 0) continue;
    const int place = sorted.offsets[i / kWarpSize] + bits_below_lane(bits);
    kept.keys[place] = load_key<Key>(in, i);
    kept.indices[place] = static_cast<unsigned>(i);
  }
  if (threadIdx.x != 0) return;
  *kept.count = total;
  *progress = {total, 0};
}

// A block ranks kWarpSize boxes, one per lane. Each warp compares them with its part of all keys, staging kStaged of
// them at a time in shared memory, and counts those that precede. Ties go to the lower index: equal keys of boxes
// before the block's own are counted, those of boxes after them are not, so a pair takes one comparison.
constexpr int kStaged = 128;

template <typename Key>
__global__ void __launch_bounds__(kThreads) rank_kernel(KeptBoxes<Key> kept, int64_t* keep, int capacity) {
  __shared__ __align__(16) Key staged[kWarps][kStaged];
  __shared__ int ranks[kWarpSize];
  wait_for_previous_kernel();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, n = *kept.count;
  const int begin = static_cast<int>(blockIdx.x) * kWarpSize, index = begin + lane;
  // The result may be a view of this array, and saving a view saves all of it.
  if (warp == 0 && index >= n && index < capacity) keep[index] = 0;
  if (begin >= n) return;
  const Key key = index < n ? kept.keys[index] : 0;
  if (warp == 0) ranks[lane] = 0;
  int count = 0;
  for (int first = warp * kStaged; first < n; first += kWarps * kStaged) {
    __syncwarp();  // all lanes are done with the previous keys
#pragma unroll
    for (int k = 0; k < kStaged / kWarpSize; ++k) {
      const int i = first + k * kWarpSize + lane;
      // The highest key, which no score has, precedes nothing.
      staged[warp][k * kWarpSize + lane] = i < n ? kept.keys[i] : ~Key(0);
    }
    __syncwarp();
    if (first + kStaged <= begin || first >= begin + kWarpSize) {
      const Key bound = first < begin ? key + 1 : key;
#pragma unroll 16
      for (int k = 0; k < kStaged; ++k)
        if (staged[warp][k] < bound) ++count;
    } else {
      for (int k = 0; k < kStaged; ++k) count += staged[warp][k] < key + (first + k < index ? 1 : 0) ? 1 : 0;
    }
  }
  __syncthreads();
  atomicAdd(&ranks[lane], count);
  __syncthreads();
  if (warp == 0 && index < n) keep[ranks[lane]] = kept.indices[index];
}

template <typename Key, typename T>
cudaError_t launch_finish(const NmsInputs& in, const Chunk<T>& chunk, WorkspaceLayout& layout, int64_t* keep,
                          NmsProgress* progress, cudaStream_t stream) {
  const KeptBoxes<Key> kept = kept_workspace<Key>(in.num_boxes, layout);
  const cudaError_t status =
      launch_dependent(finish_kernel<Key, T>, 1, kChunkThreads, 0, stream, in, chunk, kept, progress);
  if (status != cudaSuccess) return status;
  return launch_dependent(rank_kernel<Key>, grid_blocks(in.num_boxes, kWarpSize), kThreads, 0, stream, kept, keep,
                          chunk.capacity);
}

template <bool has_classes, typename T>
cudaError_t launch_whole(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* keep,
                         NmsProgress* progress, cudaStream_t stream) {
  WorkspaceLayout layout(workspace);
  const Chunk<T> chunk = chunk_workspace<T>(in.num_boxes, layout);
  const cudaError_t status =
      launch_chunk<has_classes>(Begin::after_previous, InputBoxes<T>{in}, chunk, iou_threshold, stream);
  if (status != cudaSuccess) return status;
  auto* finish = in.score_type == Dtype::f64 ? launch_finish<uint64_t, T> : launch_finish<uint32_t, T>;
  return finish(in, chunk, layout, keep, progress, stream);
}

}  // namespace
}  // namespace ssd_ops
