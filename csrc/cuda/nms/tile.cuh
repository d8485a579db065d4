// The boxes of a tile among themselves: which of them suppress which, who is kept, and the choice of the next tile. The
// plan stands in nms.cu.
#pragma once

#include "core/suppression.h"
#include "cuda/common/block.cuh"
#include "cuda/nms/workspace.cuh"

namespace ssd_ops {
namespace {

constexpr int kRows = 64, kColumns = 2 * kRows;  // that a block compares
static_assert(kRows * kColumns == kThreads * kWarpSize, "a thread has a row and a word");
static_assert(kColumns == 4 * kWarpSize, "a block's columns are a group of words");

// Blocks that compare all boxes of a tile with those before them.
inline unsigned tile_blocks(int64_t boxes) {
  unsigned blocks = 0;
  for (int row = 0; row < ceil_div(boxes, kRows); ++row) blocks += row * kRows / kColumns + 1;
  return blocks;
}

// Compares kRows boxes of the tile with kColumns of those before them.
template <bool has_classes, typename T>
__device__ void compare_in_tile(const NmsWork<T>& work, int block, int count, const SuppressionRule<T>& rule) {
  __shared__ Box<T> columns[kColumns];
  __shared__ T areas[kColumns];
  __shared__ int64_t classes[kColumns];
  int row_block = 0, group = block;
  for (; group > row_block * kRows / kColumns; ++row_block) group -= row_block * kRows / kColumns + 1;
  if (row_block * kRows >= count) return;
  if (threadIdx.x < kColumns) {
    const int column = group * kColumns + static_cast<int>(threadIdx.x);
    const int64_t rank = work.tile[column < count ? column : 0];
    columns[threadIdx.x] = work.boxes[rank];
    areas[threadIdx.x] = area(columns[threadIdx.x]);
    if (has_classes) classes[threadIdx.x] = work.classes[rank];
  }
  __syncthreads();
  const int row = row_block * kRows + static_cast<int>(threadIdx.x) % kRows;
  const int first = static_cast<int>(threadIdx.x) / kRows * kWarpSize;  // the lanes of a warp compare with the same box
  const int earlier = row - group * kColumns - first;                   // columns of the word that stand before
  if (row >= count) return;
  const int64_t rank = work.tile[row];
  const Box<T> box = work.boxes[rank];
  const T box_area = area(box);
  const int64_t box_class = has_classes ? work.classes[rank] : 0;
  unsigned may = 0, bits = 0;
  if (earlier > 0) {
#pragma unroll 8
    for (int k = 0; k < kWarpSize; ++k) {
      const T inter = intersection(columns[first + k], box);
      const bool same = !has_classes || classes[first + k] == box_class;
      may |= (same && may_suppress(inter, areas[first + k] + box_area - inter, rule) ? 1u : 0u) << k;
    }
    if (earlier < kWarpSize) may &= (1u << earlier) - 1;
  }
  for (; may != 0; may &= may - 1) {
    const int k = first + __ffs(static_cast<int>(may)) - 1;
    if (suppresses(columns[k], box, areas[k], box_area, rule)) bits |= may & (0 - may);
  }
  work.mask[row * kWords + group * 4 + first / kWarpSize] = bits;
  if (bits != 0) atomicOr(&work.groups[row], 1u << group);
}

// Settles 32 boxes of the tile as far as the boxes before them are settled: `open` is not settled, `kept` is kept.
// The arrays hold what is known of all words. All lanes of a warp call it.
template <typename T>
__device__ void settle_word(const NmsWork<T>& work, int word, const unsigned* kept_bits, const unsigned* open_bits,
                            unsigned* kept, unsigned* open) {
  constexpr int kAtOnce = 4;  // groups on their way
  const int lane = threadIdx.x % kWarpSize, row = word * kWarpSize + lane;
  const unsigned mine = 1u << lane;
  const uint4* mask = reinterpret_cast<const uint4*>(work.mask) + row * kGroups;
  bool dies = false, blocked = false;
  unsigned near = 0;  // boxes of the same word that suppress this one
  for (unsigned groups = (*open & mine) != 0 ? work.groups[row] : 0; groups != 0;) {
    uint4 found[kAtOnce];
    int at[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      at[k] = groups != 0 ? __ffs(static_cast<int>(groups)) - 1 : 0;
      found[k] = groups != 0 ? mask[at[k]] : uint4{0, 0, 0, 0};
      groups &= groups - 1;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const unsigned words[4] = {found[k].x, found[k].y, found[k].z, found[k].w};
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int other = at[k] * 4 + q;
        const unsigned far = other == word ? 0 : words[q];
        near |= words[q] ^ far;
        dies = dies || (far & kept_bits[other]) != 0;
        blocked = blocked || (far & open_bits[other]) != 0;
      }
    }
  }
  unsigned last;
  do {
    last = *open;
    dies = dies || (near & *kept) != 0;
    const bool waits = (last & mine) != 0, keeps = !dies && !blocked && (near & last) == 0;
    *kept |= __ballot_sync(kFullMask, waits && keeps);
    *open &= ~__ballot_sync(kFullMask, waits && (dies || keeps));
  } while (*open != last);
}

// Finds out who is kept of the tile, and writes them out.
template <bool has_classes, typename T>
__device__ void resolve_tile(const NmsWork<T>& work, const int64_t* order, int count, int64_t* keep,
                             int64_t* progress) {
  __shared__ unsigned kept_bits[2][kWords], open_bits[2][kWords];  // as the last round left them, and as this one does
  __shared__ int starts[kWords];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  for (int word = warp; word < kWords; word += kWarps) {
    const int row = word * kWarpSize + lane;
    const int64_t rank = work.tile[row < count ? row : 0];
    const bool alive = row < count && (work.dead[rank / kWarpSize] >> (rank % kWarpSize) & 1) == 0;
    const unsigned open = __ballot_sync(kFullMask, alive);
    if (lane == 0) {
      kept_bits[0][word] = 0;
      open_bits[0][word] = open;
    }
  }
  __syncthreads();
  int now = 0;
  for (bool going = true; going; now ^= 1) {  // each round settles the first open word at least
    bool any_open = false;
    for (int word = warp; word < kWords; word += kWarps) {
      unsigned known_kept = kept_bits[now][word], open = open_bits[now][word];
      if (open != 0) settle_word(work, word, kept_bits[now], open_bits[now], &known_kept, &open);
      any_open = any_open || open != 0;
      if (lane == 0) {
        kept_bits[now ^ 1][word] = known_kept;
        open_bits[now ^ 1][word] = open;
      }
    }
    going = __syncthreads_or(any_open) != 0;
  }
  const int64_t base = progress[0];
  int total;
  const int in_word = threadIdx.x < kWords ? __popc(kept_bits[now][threadIdx.x]) : 0;
  const int start = block_count_before(in_word, &total);
  if (threadIdx.x < kWords) starts[threadIdx.x] = start;
  __syncthreads();
#pragma unroll 4
  for (int word = warp; word < kWords; word += kWarps) {
    const unsigned bits = kept_bits[now][word];
    if ((bits >> lane & 1) == 0) continue;
    const int64_t rank = work.tile[word * kWarpSize + lane];
    const int place = starts[word] + __popc(bits & ((1u << lane) - 1));
    keep[base + place] = order[rank];
    work.pushed[place] = work.boxes[rank];
    if (has_classes) work.pushed_classes[place] = work.classes[rank];
  }
  if (threadIdx.x == 0) {
    progress[0] = base + total;
    work.state->pushed = total;
  }
}

// Writes the ranks of the next boxes that live, as far as is known, to the tile.
template <typename T>
__device__ void choose_tile(const NmsWork<T>& work, int64_t n, int64_t* progress) {
  const int64_t from = work.state->next;
  for (int i = threadIdx.x; i < kTile && i < n; i += kThreads) work.groups[i] = 0;
  __syncthreads();  // all have read the last tile
  int chosen = 0;
  for (int64_t first = from / kWarpSize; first * kWarpSize < n && chosen < kTile; first += kThreads) {
    const int64_t word = first + threadIdx.x, rank = word * kWarpSize;
    unsigned alive = rank < n ? ~work.dead[word] : 0;
    if (rank < n && n - rank < kWarpSize) alive &= (1u << (n - rank)) - 1;
    if (rank < from) alive &= from - rank < kWarpSize ? ~0u << (from - rank) : 0;
    int total;
    int place = chosen + block_count_before(__popc(alive), &total);
    for (; alive != 0 && place < kTile; alive &= alive - 1) work.tile[place++] = rank + __ffs(alive) - 1;
    chosen += total;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    progress[1] = work.state->tile = chosen < kTile ? chosen : kTile;
    work.state->from = from;
    work.state->next = chosen < kTile ? n : work.tile[kTile - 1] + 1;
  }
}

}  // namespace
}  // namespace ssd_ops
