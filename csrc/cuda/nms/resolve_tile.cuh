// Which boxes of a tile are kept, and the choice of the next tile, by one block. The plan is in nms.cu.
#pragma once

#include "cuda/common/scan.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

// Decides which boxes of the tile are kept; returns their bits, in shared memory.
template <typename T>
__device__ const unsigned* resolve_tile(const NmsWorkspace<T>& work, int count) {
  __shared__ ResolvedBits rounds[2];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  for (int word = warp; word < kWords; word += kResolveWarps) {
    const int row = word * kWarpSize + lane;
    const int64_t rank = work.tile[row < count ? row : 0];
    const bool active = row < count && (work.suppressed[rank / kWarpSize] >> (rank % kWarpSize) & 1) == 0;
    const unsigned undecided = __ballot_sync(kFullMask, active);
    if (lane == 0) {
      rounds[0].kept[word] = 0;
      rounds[0].undecided[word] = undecided;
    }
  }
  __syncthreads();
  return resolve_in_rounds(rounds, [&](int k) {
    const int row = (warp + k * kResolveWarps) * kWarpSize + lane;
    return MaskRow{reinterpret_cast<const uint4*>(work.mask) + row * kWordGroups,
                   row < count ? work.nonzero_groups[row] : 0};
  });
}

// Appends the kept boxes of the tile to `keep`, and writes them for suppress_remaining() of the next launch.
template <bool has_classes, typename T>
__device__ void write_kept(const NmsWorkspace<T>& work, const unsigned* kept, const int64_t* order, int64_t* keep) {
  __shared__ int offsets[kWords];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t base = work.state->num_kept;
  int total;
  const int in_word = threadIdx.x < kWords ? __popc(kept[threadIdx.x]) : 0;
  const int offset = block_exclusive_sum(in_word, &total);
  if (threadIdx.x < kWords) offsets[threadIdx.x] = offset;
  __syncthreads();
#pragma unroll 4
  for (int word = warp; word < kWords; word += kResolveWarps) {
    const unsigned bits = kept[word];
    if ((bits >> lane & 1) == 0) continue;
    const int64_t rank = work.tile[word * kWarpSize + lane];
    const int index = offsets[word] + bits_below_lane(bits);
    keep[base + index] = order[rank];
    work.tile_kept[index] = work.boxes[rank];
    if (has_classes) work.tile_kept_classes[index] = work.classes[rank];
  }
  if (threadIdx.x == 0) {
    work.state->num_kept = base + total;
    work.state->num_tile_kept = total;
  }
}

// Writes to the tile the ranks of the next boxes that are not known to be suppressed.
template <typename T>
__device__ void choose_tile(const NmsWorkspace<T>& work, int64_t n, NmsProgress* progress) {
  const int64_t begin = work.state->tile_end;
  for (int i = threadIdx.x; i < kNmsTile && i < n; i += kResolveThreads) work.nonzero_groups[i] = 0;
  __syncthreads();  // all threads have read the previous tile
  int chosen = 0;
  for (int64_t first = begin / kWarpSize; first * kWarpSize < n && chosen < kNmsTile; first += kResolveThreads) {
    const int64_t word = first + threadIdx.x, rank = word * kWarpSize;
    unsigned active = rank < n ? ~work.suppressed[word] : 0;
    if (rank < n && n - rank < kWarpSize) active &= (1u << (n - rank)) - 1;
    if (rank < begin) active &= begin - rank < kWarpSize ? ~0u << (begin - rank) : 0;
    int total;
    int index = chosen + block_exclusive_sum(__popc(active), &total);
    for (; active != 0 && index < kNmsTile; active &= active - 1) work.tile[index++] = rank + __ffs(active) - 1;
    chosen += total;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    work.state->tile_size = chosen < kNmsTile ? chosen : kNmsTile;
    *progress = {work.state->num_kept, work.state->tile_size};
    work.state->tile_begin = begin;
    work.state->tile_end = chosen < kNmsTile ? n : work.tile[kNmsTile - 1] + 1;
  }
}

}  // namespace
}  // namespace ssd_ops
