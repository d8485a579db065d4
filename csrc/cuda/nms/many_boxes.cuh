// More than kMaxChunk boxes, in the order of their scores.
//
// Plan: gather_kernel writes the boxes by rank and counts those of each cell of a grid, scatter_kernel writes them in
// the order of the cells. Then chunk after chunk, the next kMaxChunk boxes that are not yet suppressed are resolved
// (the plan is in chunk.cuh), finish_chunk_kernel appends those that are kept to the result, and suppress_kernel
// compares them with the boxes of lower rank: a warp has 32 of these, which are near each other, and needs few of the
// kept boxes. So only kept boxes are compared with all that follow, crowded boxes cost little, and memory is O(n). When
// no boxes are left, the remaining launches find an empty chunk and return; the host checks after some chunks, so there
// are few.
#pragma once

#include "cuda/common/last_block.cuh"
#include "cuda/nms/launch_chunk.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int64_t kMaxBlocks = 65536;  // of kernels over all boxes

template <typename T>
__device__ __forceinline__ Box<T> bounds_of_input(const NmsInputs& in) {
  return sample_bounds<kThreads>(in.num_boxes, [&](int64_t i) { return load_box_as<T>(in.box_type, in.boxes, i); });
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads, 4)
    gather_kernel(NmsInputs in, const int64_t* order, ManyWorkspace<T> work) {
  const Box<T> center_bounds = bounds_of_input<T>(in);
  for (int64_t rank = global_thread_index(); rank < in.num_boxes; rank += num_global_threads()) {
    const Box<T> box = load_box_as<T>(in.box_type, in.boxes, order[rank]);
    const int64_t box_class = has_classes ? in.classes[order[rank]] : 0;
    work.boxes[rank] = box;
    if (has_classes) work.classes[rank] = box_class;
    if (rank % kWarpSize == 0) work.suppressed[rank / kWarpSize] = 0;
    atomicAdd(&work.offsets[cell_of<has_classes>(box, box_class, center_bounds)], 1u);
  }
  if (is_last_block(&work.state->ticket)) sum_counts<kThreads>(work.offsets);
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads) scatter_kernel(NmsInputs in, ManyWorkspace<T> work) {
  wait_for_previous_kernel();
  const Box<T> center_bounds = bounds_of_input<T>(in);
  for (int64_t rank = global_thread_index(); rank < in.num_boxes; rank += num_global_threads()) {
    const Box<T> box = work.boxes[rank];
    const unsigned cell = cell_of<has_classes>(box, has_classes ? work.classes[rank] : 0, center_bounds);
    const unsigned index = atomicAdd(&work.offsets[cell], 1u);
    work.cell_boxes[index] = box;
    work.cell_ranks[index] = static_cast<unsigned>(rank);
  }
}

// Writes the ranks of the next boxes that are not suppressed; returns their number. All threads of a block of
// kChunkThreads call it.
template <typename T>
__device__ int choose_chunk(const ManyWorkspace<T>& work, int64_t n) {
  constexpr int kMax = static_cast<int>(kMaxChunk);
  const int64_t begin = work.state->next_rank;
  int chosen = 0;
  for (int64_t first = begin / kWarpSize; first * kWarpSize < n && chosen < kMax; first += kChunkThreads) {
    const int64_t word = first + threadIdx.x, rank = word * kWarpSize;
    unsigned active = rank < n ? ~work.suppressed[word] : 0;
    if (rank < n && n - rank < kWarpSize) active &= (1u << (n - rank)) - 1;
    if (rank < begin) active &= begin - rank < kWarpSize ? ~0u << (begin - rank) : 0;
    int total;
    int index = chosen + block_exclusive_sum(__popc(active), &total);
    for (; active != 0 && index < kMax; active &= active - 1)
      work.chunk_ranks[index++] = static_cast<unsigned>(rank) + __ffs(static_cast<int>(active)) - 1;
    chosen += total;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    work.state->chunk_size = chosen < kMax ? chosen : kMax;
    work.state->next_rank = chosen < kMax ? n : int64_t{work.chunk_ranks[kMax - 1]} + 1;
  }
  return chosen < kMax ? chosen : kMax;
}

// The boxes of the next chunk, with their positions as keys: they are in the order of the scores.
template <typename T>
struct ChosenBoxes {
  ManyWorkspace<T> work;
  int64_t n;

  __device__ int choose() const { return choose_chunk(work, n); }
  __device__ Box<T> box(int64_t i) const { return work.boxes[work.chunk_ranks[i]]; }
  __device__ int64_t box_class(int i) const { return work.classes[work.chunk_ranks[i]]; }
  __device__ uint64_t key(int i) const { return static_cast<uint64_t>(i); }
};

template <typename T>
__global__ void __launch_bounds__(kChunkThreads, 1)
    finish_chunk_kernel(int64_t n, ManyWorkspace<T> work, const int64_t* order, int64_t* keep, NmsProgress* progress) {
  __shared__ KeptIndices kept;
  wait_for_previous_kernel();
  const int count = work.chunk.count(), lane = threadIdx.x % kWarpSize;
  if (count == 0 && threadIdx.x == 0) *progress = {work.state->num_kept, 0};
  if (count == 0) return;
  const ChunkStates& states = decide_remaining(work.chunk, count);
  const int total = sort_kept(work.chunk, count, states, kept);
  const int64_t base = work.state->num_kept;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kChunkThreads) {
    const unsigned bits = kept.bits[i / kWarpSize];
    if ((bits >> lane & 1) != 0)
      keep[base + kept.offsets[i / kWarpSize] + bits_below_lane(bits)] = order[work.chunk_ranks[i]];
  }
  for (int g = static_cast<int>(threadIdx.x) / kWarpSize; g * kWarpSize < count; g += kChunkWarps) {
    const GroupState state = states.groups[g];
    const Box<T> bounds = (state.kept >> lane & 1) != 0
                              ? enclose(empty_bounds<T>(), work.chunk.boxes[g * kWarpSize + lane])
                              : empty_bounds<T>();
    const Box<T> group_bounds = warp_bounds(bounds);
    if (lane != 0) continue;
    work.kept_bounds[g] = group_bounds;
    work.chunk.states[g] = state;
  }
  __syncthreads();  // all threads have read num_kept
  if (threadIdx.x != 0) return;
  work.state->num_kept = base + total;
  *progress = {base + total, work.state->next_rank < n ? 1 : 0};
}

// The boxes that a warp compares with the kept ones.
template <typename T>
struct Remaining {
  Row<T> row;
  bool active;  // of this lane: not yet suppressed
};

// Compares the boxes of the warp with the kept boxes of a group, as far as these may suppress one.
template <bool has_classes, typename T>
__device__ __forceinline__ void suppress_by_group(const ManyWorkspace<T>& work, int group,
                                                  Columns<T, kWarpSize>& columns, const SideRanges<T>& ranges,
                                                  bool near_only, T axis_threshold, const PairThresholds<T>& thresholds,
                                                  Remaining<T>& boxes) {
  const int lane = threadIdx.x % kWarpSize, column = group * kWarpSize + lane;
  const bool is_kept = (work.chunk.states[group].kept >> lane & 1) != 0;
  const Box<T> box = is_kept ? work.chunk.boxes[column] : Box<T>{};
  const bool is_near = is_kept && (!near_only || may_suppress_any(box, ranges, axis_threshold));
  unsigned near = __ballot_sync(kFullMask, is_near);
  if (near == 0) return;
  columns.template set<has_classes>(lane, box, has_classes && is_near ? work.chunk.classes[column] : 0);
  __syncwarp();
  Suspects suspects{0, 0};
  for (; near != 0; near &= near - 1) {
    const int k = __ffs(static_cast<int>(near)) - 1;
    compare_pair<has_classes>(columns, 0, k, boxes.row, thresholds, &suspects);
  }
  if (boxes.active) boxes.active = suppressing(columns, 0, suspects, boxes.row, thresholds) == 0;
  __syncwarp();  // all lanes are done with the columns
}

template <bool has_classes, typename T>
__global__ void __launch_bounds__(kThreads)
    suppress_kernel(int64_t n, ManyWorkspace<T> work, PairThresholds<T> thresholds, bool near_only, T axis_threshold) {
  __shared__ Box<T> kept_bounds[kMaxGroups];
  __shared__ Columns<T, kWarpSize> columns[kWarps];
  wait_for_previous_kernel();
  const int count = work.chunk.count(), groups = (count + kWarpSize - 1) / kWarpSize;
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t next_rank = work.state->next_rank;
  if (count == 0 || next_rank >= n) return;
  for (int g = static_cast<int>(threadIdx.x); g < groups; g += kThreads) kept_bounds[g] = work.kept_bounds[g];
  __syncthreads();
  for (int64_t first = global_thread_index() - lane; first < n; first += num_global_threads()) {
    const int64_t i = first + lane < n ? first + lane : first, rank = work.cell_ranks[i];
    const unsigned bit = 1u << (rank % kWarpSize);
    const bool active = first + lane < n && rank >= next_rank && (work.suppressed[rank / kWarpSize] & bit) == 0;
    if (!__any_sync(kFullMask, active)) continue;
    const Box<T> box = work.cell_boxes[i];
    const SideRanges<T> ranges = warp_ranges(active, box);
    Remaining<T> boxes{{box, area(box), has_classes && active ? work.classes[rank] : 0}, active};
    for (int base = 0; base < groups && __any_sync(kFullMask, boxes.active); base += kWarpSize) {
      const int g = base + lane;
      unsigned near = __ballot_sync(kFullMask, g < groups && (!near_only || overlaps(kept_bounds[g], ranges.outer)));
      for (; near != 0; near &= near - 1)
        suppress_by_group<has_classes>(work, base + __ffs(static_cast<int>(near)) - 1, columns[warp], ranges, near_only,
                                       axis_threshold, thresholds, boxes);
    }
    if (active && !boxes.active) atomicOr(&work.suppressed[rank / kWarpSize], bit);
  }
}

template <bool has_classes, typename T>
cudaError_t sort_by_cell(const NmsInputs& in, const ManyWorkspace<T>& work, const int64_t* order, cudaStream_t stream) {
  const unsigned blocks = grid_blocks(in.num_boxes, kThreads, kMaxBlocks);
  const auto* end = reinterpret_cast<const char*>(work.state + 1);
  cudaError_t status = cudaMemsetAsync(work.offsets, 0, end - reinterpret_cast<const char*>(work.offsets), stream);
  if (status == cudaSuccess)
    status = launch(gather_kernel<has_classes, T>, blocks, kThreads, 0, stream, in, order, work);
  if (status == cudaSuccess)
    status = launch_dependent(scatter_kernel<has_classes, T>, blocks, kThreads, 0, stream, in, work);
  return status;
}

template <bool has_classes, typename T>
cudaError_t launch_many(const NmsInputs& in, double iou_threshold, void* workspace, const int64_t* order,
                        int64_t first_chunk, int64_t num_chunks, int64_t* keep, NmsProgress* progress,
                        cudaStream_t stream) {
  WorkspaceLayout layout(workspace);
  const ManyWorkspace<T> work = many_workspace<T>(in.num_boxes, layout);
  const PairThresholds<T> thresholds = pair_thresholds<T>(iou_threshold);
  const unsigned blocks = grid_blocks(in.num_boxes, kThreads, kMaxBlocks);
  cudaError_t status = first_chunk == 0 ? sort_by_cell<has_classes>(in, work, order, stream) : cudaSuccess;
  for (int64_t c = 0; c < num_chunks && status == cudaSuccess; ++c) {
    const Begin begin = c > 0 || first_chunk == 0 ? Begin::early : Begin::after_previous;
    status = launch_chunk<has_classes>(begin, ChosenBoxes<T>{work, in.num_boxes}, work.chunk, iou_threshold, stream);
    if (status == cudaSuccess)
      status = launch_dependent(finish_chunk_kernel<T>, 1, kChunkThreads, 0, stream, in.num_boxes, work, order, keep,
                                progress);
    if (status == cudaSuccess)
      status = launch_dependent(suppress_kernel<has_classes, T>, blocks, kThreads, 0, stream, in.num_boxes, work,
                                thresholds, iou_threshold >= 0, axis_threshold(thresholds.decision));
  }
  return status;
}

}  // namespace
}  // namespace ssd_ops
