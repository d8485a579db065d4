// Up to kMaxFew boxes, in two launches and without sorting.
//
// Plan: compare_all_kernel compares every box with every other, in the order of input: one bit for each pair of which
// the first precedes (by score) and suppresses the second, and, from the same comparison of scores, the rank of each
// box. resolve_all_kernel, one block, resolves the boxes and writes those that are kept by rank.
#pragma once

#include "cuda/common/workspace.h"
#include "cuda/nms/compare.cuh"
#include "cuda/nms/resolve_words.cuh"
#include "cuda/nms/sort_keys.cuh"

namespace ssd_ops {
namespace {

constexpr int kRows = 64, kColumns = 2 * kRows;  // boxes that a block compares with each other
static_assert(kRows * kColumns == kThreads * kWarpSize, "each thread computes one word of the mask");
static_assert(kColumns == 4 * kWarpSize, "a block's columns are a group of words");

struct FewWorkspace {
  unsigned* mask;    // [n, 4 groups]: bit b of mask[i][w] is set if box 32 w + b precedes box i and suppresses it
  uint16_t* counts;  // [groups, n]: boxes of the group that precede box i, plus kNonzero if one of them suppresses it
};
constexpr unsigned kNonzero = 1u << 15;

inline int num_column_groups(int64_t n) { return static_cast<int>(ceil_div(n, kColumns)); }

inline FewWorkspace few_workspace(int64_t n, WorkspaceLayout& layout) {
  FewWorkspace work;
  work.mask = layout.array<unsigned>(n * 4 * num_column_groups(n));
  work.counts = layout.array<uint16_t>(n * num_column_groups(n));
  return work;
}

// Compares kRows boxes with kColumns boxes; each thread computes one word of the mask.
template <bool has_classes, typename Key, typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == sizeof(float) ? 4 : 2)
    compare_all_kernel(NmsInputs in, FewWorkspace work, PairThresholds<T> thresholds) {
  __shared__ Columns<T, kColumns> columns;
  __shared__ Key keys[kColumns];
  __shared__ unsigned counts[kRows];
  wait_for_previous_kernel();
  const int n = static_cast<int>(in.num_boxes), thread = static_cast<int>(threadIdx.x), group = blockIdx.y;
  if (thread < kColumns) {
    const int column = group * kColumns + thread, i = column < n ? column : 0;
    columns.template set<has_classes>(thread, load_box_as<T>(in.box_type, in.boxes, i),
                                      has_classes ? in.classes[i] : 0);
    keys[thread] = column < n ? load_key<Key>(in, i) : ~Key(0);  // the highest key, which no score has
  } else if (thread < kColumns + kRows) {
    counts[thread - kColumns] = 0;
  }
  __syncthreads();
  const int row_in_block = thread % kRows, index = static_cast<int>(blockIdx.x) * kRows + row_in_block;
  // One word for all lanes of a warp, so that they read the same column: a shared-memory broadcast.
  const int first = thread / kRows * kWarpSize, word = group * 4 + first / kWarpSize;
  if (index < n) {
    const Box<T> box = load_box_as<T>(in.box_type, in.boxes, index);
    const Row<T> row{box, area(box), has_classes ? in.classes[index] : 0};
    // Ties go to the lower index: an equal key precedes if its column is below `num_lower`.
    const Key key = load_key<Key>(in, index);
    const int num_lower = index - word * kWarpSize;
    unsigned precedes = 0;
    Suspects suspects{0, 0};
#pragma unroll 8
    for (int k = 0; k < kWarpSize; ++k) {
      precedes |= (keys[first + k] < key + (k < num_lower ? 1 : 0) ? 1u : 0u) << k;
      compare_pair<has_classes>(columns, first, k, row, thresholds, &suspects);
    }
    const unsigned bits =
        suppressing(columns, first, {suspects.may & precedes, suspects.sure & precedes}, row, thresholds);
    work.mask[index * 4 * static_cast<int>(gridDim.y) + word] = bits;
    atomicAdd(&counts[row_in_block], static_cast<unsigned>(__popc(precedes)));
    if (bits != 0) atomicOr(&counts[row_in_block], kNonzero);
  }
  __syncthreads();
  if (thread < kRows && index < n) work.counts[group * n + index] = static_cast<uint16_t>(counts[thread]);
}

constexpr int kRowsPerThread = kWords / kResolveWarps;

// A box of a thread of resolve_all_kernel.
struct RankedRow {
  int rank;  // boxes that precede it
  MaskRow mask;
};

__device__ inline RankedRow load_row(const FewWorkspace& work, int i, int n, int groups) {
  RankedRow row{0, {reinterpret_cast<const uint4*>(work.mask) + i * groups, 0}};
  if (i >= n) return row;
#pragma unroll 8
  for (int g = 0; g < groups; ++g) {
    const unsigned count = work.counts[g * n + i];
    row.rank += static_cast<int>(count & (kNonzero - 1));
    row.mask.nonzero_groups |= (count & kNonzero) != 0 ? 1u << g : 0;
  }
  return row;
}

// Writes the indices of the kept boxes by rank, and zeros after them: the result may be a view of this array, and
// saving a view saves all of it. Returns their number. kept_ranks is all 0 before. All threads of the block call it.
__device__ inline int write_by_rank(const RankedRow (&rows)[kRowsPerThread], const unsigned* kept,
                                    unsigned (&kept_ranks)[kWords], int n, int64_t* keep) {
  __shared__ int offsets[kWords];
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
#pragma unroll
  for (int k = 0; k < kRowsPerThread; ++k)
    if ((kept[warp + k * kResolveWarps] >> lane & 1) != 0)
      atomicOr(&kept_ranks[rows[k].rank / kWarpSize], 1u << (rows[k].rank % kWarpSize));
  __syncthreads();
  int total;
  const int offset = block_exclusive_sum(threadIdx.x < kWords ? __popc(kept_ranks[threadIdx.x]) : 0, &total);
  if (threadIdx.x < kWords) offsets[threadIdx.x] = offset;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kRowsPerThread; ++k) {
    const int word = warp + k * kResolveWarps, of_rank = rows[k].rank / kWarpSize;
    if ((kept[word] >> lane & 1) == 0) continue;
    const unsigned lower = kept_ranks[of_rank] & ((1u << (rows[k].rank % kWarpSize)) - 1);
    keep[offsets[of_rank] + __popc(lower)] = word * kWarpSize + lane;
  }
  for (int i = total + static_cast<int>(threadIdx.x); i < n; i += kResolveThreads) keep[i] = 0;
  return total;
}

__global__ void __launch_bounds__(kResolveThreads, 1)
    resolve_all_kernel(int n, int groups, FewWorkspace work, int64_t* keep, NmsProgress* progress) {
  __shared__ ResolvedBits rounds[2];
  __shared__ unsigned kept_ranks[kWords];
  wait_for_previous_kernel();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  RankedRow rows[kRowsPerThread];
#pragma unroll
  for (int k = 0; k < kRowsPerThread; ++k) {
    const int word = warp + k * kResolveWarps, i = word * kWarpSize + lane;
    rows[k] = load_row(work, i, n, groups);
    const unsigned kept = __ballot_sync(kFullMask, i < n && rows[k].mask.nonzero_groups == 0),
                   undecided = __ballot_sync(kFullMask, rows[k].mask.nonzero_groups != 0);
    if (lane != 0) continue;
    rounds[0].kept[word] = kept;
    rounds[0].undecided[word] = undecided;
    kept_ranks[word] = 0;
  }
  __syncthreads();
  const unsigned* kept = resolve_in_rounds(rounds, [&](int k) { return rows[k].mask; });
  const int total = write_by_rank(rows, kept, kept_ranks, n, keep);
  if (threadIdx.x == 0) *progress = {total, 0};
}

template <bool has_classes, typename T>
cudaError_t launch_few(const NmsInputs& in, double iou_threshold, void* workspace, int64_t* keep, NmsProgress* progress,
                       cudaStream_t stream) {
  WorkspaceLayout layout(workspace);
  const FewWorkspace work = few_workspace(in.num_boxes, layout);
  const int n = static_cast<int>(in.num_boxes), groups = num_column_groups(n);
  auto* compare = in.score_type == Dtype::f64 ? compare_all_kernel<has_classes, uint64_t, T>
                                              : compare_all_kernel<has_classes, uint32_t, T>;
  const dim3 blocks(grid_blocks(n, kRows), static_cast<unsigned>(groups));
  const cudaError_t status = launch(compare, blocks, kThreads, 0, stream, in, work, pair_thresholds<T>(iou_threshold));
  if (status != cudaSuccess) return status;
  return launch_dependent(resolve_all_kernel, 1, kResolveThreads, 0, stream, n, groups, work, keep, progress);
}

}  // namespace
}  // namespace ssd_ops
