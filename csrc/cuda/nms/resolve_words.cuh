// Which of a few boxes are kept, by one block.
#pragma once

#include "cuda/common/scan.cuh"
#include "cuda/nms/nms.h"

namespace ssd_ops {
namespace {

constexpr int kWords = static_cast<int>(kMaxFew) / kWarpSize;
constexpr int kResolveThreads = 1024, kResolveWarps = kResolveThreads / kWarpSize;

// One bit for each box that is kept, and for each that is not yet decided.
struct ResolvedBits {
  unsigned kept[kWords], undecided[kWords];
};

// The boxes that suppress one box: whether one of other words is kept, whether one is undecided; and those of its own
// word.
struct Suppressors {
  bool kept, undecided;
  unsigned in_word;
};

// The mask words of one box, in groups of four; bit g of nonzero_groups is set if group g is not 0.
struct MaskRow {
  const uint4* groups;
  unsigned nonzero_groups;
};

// Reads the mask row of one box, by the groups of words that are not 0.
__device__ __forceinline__ Suppressors find_suppressors(const MaskRow& row, int word, const ResolvedBits& resolved) {
  unsigned nonzero_groups = row.nonzero_groups;
  constexpr int kLoadsInFlight = 4;  // groups that are loaded at once
  Suppressors found{false, false, 0};
  while (nonzero_groups != 0) {
    uint4 loaded[kLoadsInFlight];
    int group[kLoadsInFlight];
#pragma unroll
    for (int k = 0; k < kLoadsInFlight; ++k) {
      group[k] = nonzero_groups != 0 ? __ffs(static_cast<int>(nonzero_groups)) - 1 : 0;
      loaded[k] = nonzero_groups != 0 ? row.groups[group[k]] : uint4{0, 0, 0, 0};
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
        found.kept = found.kept || (in_others & resolved.kept[other]) != 0;
        found.undecided = found.undecided || (in_others & resolved.undecided[other]) != 0;
      }
    }
  }
  return found;
}

// Decides the 32 boxes of one word as far as `resolved` allows: a box is kept if no kept or undecided box suppresses
// it, and suppressed if a kept one does. Repeats within the word until nothing changes, and updates its bits in *kept
// and *undecided. All lanes of a warp call it, each with the row of its box.
__device__ inline void resolve_word(const MaskRow& row, int word, const ResolvedBits& resolved, unsigned* kept,
                                    unsigned* undecided) {
  const unsigned bit = 1u << (threadIdx.x % kWarpSize);
  const Suppressors suppressors =
      (*undecided & bit) != 0 ? find_suppressors(row, word, resolved) : Suppressors{false, false, 0};
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

// Decides in rounds which boxes are kept; returns their bits. rounds[0] holds the state before the first round, the
// other is a second buffer; row_of(k) is the row of this lane in the warp's word number k. Every round decides at least
// the first undecided box.
template <typename RowOf>
__device__ const unsigned* resolve_in_rounds(ResolvedBits (&rounds)[2], RowOf row_of) {
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  int current = 0;
  for (bool more = true; more; current ^= 1) {
    bool any_undecided = false;
#pragma unroll
    for (int k = 0; k < kWords / kResolveWarps; ++k) {
      const int word = warp + k * kResolveWarps;
      unsigned kept = rounds[current].kept[word], undecided = rounds[current].undecided[word];
      if (undecided != 0) resolve_word(row_of(k), word, rounds[current], &kept, &undecided);
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

}  // namespace
}  // namespace ssd_ops
