// Which boxes of a tile are kept, and the choice of the next tile, by one block. The plan is in nms.cu.
#pragma once

#include "cuda/common/scan.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kResolveThreads = 1024, kResolveWarps = kResolveThreads / kWarpSize;

// A set of boxes of a tile, one bit each, for those that are kept and those that are not yet decided.
struct TileBits {
  unsigned kept[kWords], undecided[kWords];
};

// The boxes that suppress one box: whether one of other words is kept, whether one is undecided; and those of its own
// word.
struct Suppressors {
  bool kept, undecided;
  unsigned in_word;
};

// Reads the mask row of one box, by the groups of words that are not 0.
__device__ __forceinline__ Suppressors find_suppressors(const uint4* mask_row, unsigned nonzero_groups, int word,
                                                        const TileBits& tile) {
  constexpr int kLoadsInFlight = 4;  // groups that are loaded at once
  Suppressors found{false, false, 0};
  while (nonzero_groups != 0) {
    uint4 loaded[kLoadsInFlight];
    int group[kLoadsInFlight];
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      group[k] = nonzero_groups != 0 ? __ffs(static_cast<int>(nonzero_groups)) - 1 : 0;
      loaded[k] = nonzero_groups != 0 ? mask_row[group[k]] : uint4{0, 0, 0, 0};
      nonzero_groups &= nonzero_groups - 1;
    }
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      const unsigned words[4] = {loaded[k].x, loaded[k].y, loaded[k].z, loaded[k].w};
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int other = group[k] * 4 + q;
        const unsigned in_others = other == word ? 0 : words[q];
        found.in_word |= words[q] ^ in_others;
        found.kept = found.kept || (in_others & tile.kept[other]) != 0;
        found.undecided = found.undecided || (in_others & tile.undecided[other]) != 0;
      }
    }
  }
  return found;
}

// Decides the 32 boxes of one word as far as `tile` allows: a box is kept if no kept or undecided box suppresses it,
// and suppressed if a kept one does. Repeats within the word until nothing changes, and updates its bits in *kept and
// *undecided. All lanes of a warp call it.
template <typename T>
__device__ void resolve_word(const NmsWorkspace<T>& work, int word, const TileBits& tile, unsigned* kept,
                             unsigned* undecided) {
  const int lane = threadIdx.x % kWarpSize, row = word * kWarpSize + lane;
  const unsigned bit = 1u << lane;
  const uint4* mask_row = reinterpret_cast<const uint4*>(work.mask) + row * kWordGroups;
  const Suppressors suppressors =
      find_suppressors(mask_row, (*undecided & bit) != 0 ? work.nonzero_groups[row] : 0, word, tile);
  bool is_suppressed = suppressors.kept;
  unsigned previous;
  do {
    previous = *undecided;
    is_suppressed = is_suppressed || (suppressors.in_word & *kept) != 0;
    const bool is_undecided = (previous & bit) != 0,
               is_kept = !is_suppressed && !suppressors.undecided && (suppressors.in_word & previous) == 0;
    *kept |= __ballot_sync(kFullMask, is_undecided && is_kept);
    *undecided &= ~__ballot_sync(kFullMask, is_undecided && (is_suppressed || is_kept));
  } while (*undecided != previous);
}

// Decides which boxes of the tile are kept, in rounds; returns their bits, in shared memory. Every round decides at
// least the first undecided word.
template <typename T>
__device__ const unsigned* resolve_tile(const NmsWorkspace<T>& work, int count) {
  __shared__ TileBits rounds[2];  // double buffer: what the previous round has decided, and this one
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
  int current = 0;
  for (bool more = true; more; current ^= 1) {
    bool any_undecided = false;
    for (int word = warp; word < kWords; word += kResolveWarps) {
      unsigned kept = rounds[current].kept[word], undecided = rounds[current].undecided[word];
      if (undecided != 0) resolve_word(work, word, rounds[current], &kept, &undecided);
      any_undecided = any_undecided || undecided != 0;
      if (lane == 0) {
        rounds[current ^ 1].kept[word] = kept;
        rounds[current ^ 1].undecided[word] = undecided;
      }
    }
    more = __syncthreads_or(any_undecided) != 0;
  }
  return rounds[current].kept;
}

// Appends the kept boxes of the tile to `keep`, and writes them for suppress_remaining() of the next launch.
template <bool has_classes, typename T>
__device__ void write_kept(const NmsWorkspace<T>& work, const unsigned* kept, const int64_t* order, int64_t* keep,
                           NmsProgress* progress) {
  __shared__ int offsets[kWords];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  const int64_t base = progress->num_kept;
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
    progress->num_kept = base + total;
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
    progress->next_tile_size = work.state->tile_size = chosen < kNmsTile ? chosen : kNmsTile;
    work.state->tile_begin = begin;
    work.state->tile_end = chosen < kNmsTile ? n : work.tile[kNmsTile - 1] + 1;
  }
}

}  // namespace
}  // namespace ssd_ops
