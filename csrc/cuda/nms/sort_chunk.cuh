// Writes the boxes of a chunk in the order of the cells of a grid. The plan is in chunk.cuh.
#pragma once

#include "cuda/nms/chunk.cuh"
#include "cuda/nms/grid_cells.cuh"
#include "cuda/nms/sort_keys.cuh"

namespace ssd_ops {
namespace {

// All boxes of the input, with their scores as keys. (float64 has the order of every other dtype.)
template <typename T>
struct InputBoxes {
  NmsInputs in;

  __device__ int choose() const { return static_cast<int>(in.num_boxes); }
  __device__ Box<T> box(int64_t i) const { return load_box_as<T>(in.box_type, in.boxes, i); }
  __device__ int64_t box_class(int i) const { return in.classes[i]; }
  __device__ uint64_t key(int i) const {
    return in.score_type == Dtype::f64 ? load_key<uint64_t>(in, i) : load_key<uint32_t>(in, i);
  }
};

template <bool has_classes, typename Source, typename T>
__global__ void __launch_bounds__(kChunkThreads, 1) sort_chunk_kernel(Source source, Chunk<T> chunk) {
  constexpr int kPerThread = static_cast<int>(kMaxChunk) / kChunkThreads, kIndexBits = 16;
  __shared__ unsigned offsets[kNumCells];
  wait_for_previous_kernel();
  static_assert(kMaxChunk <= 1 << kIndexBits && kNumCells <= 1 << kIndexBits, "cell and position share 32 bits");
  const int thread = static_cast<int>(threadIdx.x), count = source.choose();
  if (count == 0) return;
  for (int c = thread; c < kNumCells; c += kChunkThreads) offsets[c] = 0;
  const Box<T> center_bounds = sample_bounds<kChunkThreads>(count, [&](int64_t i) { return source.box(i); });
  unsigned places[kPerThread];  // cell, and position in the cell
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    if (i >= count) continue;
    const unsigned cell = cell_of<has_classes>(source.box(i), has_classes ? source.box_class(i) : 0, center_bounds);
    places[k] = cell << kIndexBits | atomicAdd(&offsets[cell], 1u);
  }
  __syncthreads();
  sum_counts<kChunkThreads>(offsets);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kPerThread; ++k) {
    const int i = k * kChunkThreads + thread;
    if (i >= count) continue;
    const unsigned to = offsets[places[k] >> kIndexBits] + (places[k] & ((1u << kIndexBits) - 1));
    chunk.boxes[to] = source.box(i);
    chunk.keys[to] = source.key(i);
    chunk.indices[to] = static_cast<unsigned>(i);
    if (has_classes) chunk.classes[to] = source.box_class(i);
  }
}

}  // namespace
}  // namespace ssd_ops
