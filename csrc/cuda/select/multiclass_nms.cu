// Plan: a block of collect_scores_kernel has a tile of the scores of an image in shared memory (shared_copy.cuh), reads
// it in words of 16 bytes, and appends the scores that reach the threshold to the candidates of the image;
// select_kernel (select_kernel.cuh) does the rest, one block per image.
#include "cuda/common/load.cuh"
#include "cuda/common/shared_copy.cuh"
#include "cuda/select/append.cuh"
#include "cuda/select/multiclass_nms.h"
#include "cuda/select/select_kernel.cuh"

namespace ssd_ops {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;

// The scores of one word of 16 bytes.
template <typename In>
struct alignas(kCopyAlignment) Scores {
  static constexpr int kCount = kCopyAlignment / sizeof(In);
  In values[kCount];
};
constexpr int kTileBytes = 24 << 10;
template <typename In>
constexpr int kTileScores = kTileBytes / sizeof(In);

// The scores are loaded before the previous kernel has completed: that one only clears the lists, and it began after
// the scores were written.
template <typename In>
__global__ void __launch_bounds__(kThreads)
    collect_scores_kernel(const In* scores, CandidateLists lists, unsigned num_boxes, unsigned num_classes,
                          compute_t<In> score_threshold) {
  using T = compute_t<In>;
  using Word = Scores<In>;
  using Staged = StagedCandidates<T>;
  constexpr int kStaged = Staged::kCapacity, kMaxAdded = kWarpSize * Word::kCount;
  auto* const memory = dynamic_shared<candidate_t<T>>();
  const auto num_images = static_cast<unsigned>(lists.num_images);
  const int64_t local_image = blockIdx.x % num_images;
  const unsigned scores_per_image = num_boxes * num_classes, first = blockIdx.x / num_images * kTileScores<In>,
                 left = scores_per_image - first;
  const int count = left < kTileScores<In> ? static_cast<int>(left) : kTileScores<In>;
  const SharedCopy copy(memory + kWarps * kStaged,
                        scores + (lists.first_image + local_image) * scores_per_image + first,
                        count * static_cast<int>(sizeof(In)));
  wait_for_previous_kernel();
  T threshold = current_threshold(lists, local_image, score_threshold);
  Staged staged{memory + static_cast<int>(threadIdx.x) / kWarpSize * kStaged};
  const auto* words = reinterpret_cast<const Word*>(copy.wait());
  const int skipped = copy.skipped() / static_cast<int>(sizeof(In)),
            num_words = static_cast<int>(ceil_div(skipped + count, Word::kCount));
  for (int begin = 0; begin < num_words; begin += kThreads) {
    const int w = begin + static_cast<int>(threadIdx.x);
    // Of the first and the last word only the scores of the tile have been copied; `adds` excludes the others.
    const Word word = words[w < num_words ? w : 0];
    bool any = false;
#pragma unroll
    for (int j = 0; j < Word::kCount; ++j) any = any || widen(word.values[j]) >= threshold;
    if (!__any_sync(kFullMask, any && w < num_words)) continue;  // most warps skip the division
    bool adds[Word::kCount];
    T found[Word::kCount];
    unsigned indices[Word::kCount];
#pragma unroll
    for (int j = 0; j < Word::kCount; ++j) {
      const int i = w * Word::kCount + j - skipped;  // in the tile
      const unsigned index = first + static_cast<unsigned>(i), box = index / num_classes, label = index % num_classes;
      found[j] = widen(word.values[j]);
      adds[j] = i >= 0 && i < count && found[j] >= threshold && label != 0;
      indices[j] = label * num_boxes + box;
    }
    staged.add(adds, found, indices);
    if (staged.count + kMaxAdded <= kStaged) continue;
    staged.flush(lists, local_image);
    threshold = current_threshold(lists, local_image, score_threshold);
  }
  staged.flush(lists, local_image);
}

template <typename In, typename T>
cudaError_t launch_collect(const SelectParams<T>& params, const CandidateLists& lists, cudaStream_t stream) {
  const int64_t tiles = ceil_div(params.num_boxes * params.num_classes, kTileScores<In>);
  const size_t shared_bytes = kWarps * StagedCandidates<T>::kBytes + shared_copy_bytes(kTileBytes);
  return launch_dependent(collect_scores_kernel<In>, tile_blocks(lists, tiles), kThreads, shared_bytes, stream,
                          static_cast<const In*>(params.scores), lists, static_cast<unsigned>(params.num_boxes),
                          static_cast<unsigned>(params.num_classes), params.score_threshold);
}

// All candidates of an image, for refills in select_kernel.
template <typename In>
struct ScoreCandidates {
  const In* scores;  // of the image
  unsigned num_boxes, num_classes;
  compute_t<In> score_threshold;

  template <int kBlockThreads, typename F>
  __device__ void for_each(F&& f) const {
#pragma unroll 4
    for (uint64_t i = threadIdx.x; i < uint64_t(num_boxes) * num_classes; i += kBlockThreads) {
      const compute_t<In> score = widen(scores[i]);
      if (!(score >= score_threshold)) continue;
      const auto label = static_cast<unsigned>(i % num_classes), box = static_cast<unsigned>(i / num_classes);
      if (label == 0) continue;
      f(make_candidate(score, label * num_boxes + box));
    }
  }
};

template <typename In>
struct ScoreRefill {
  const In* scores;
  unsigned num_boxes, num_classes;
  compute_t<In> score_threshold;

  __device__ ScoreCandidates<In> candidates_of(int64_t image) const {
    return {scores + image * num_boxes * num_classes, num_boxes, num_classes, score_threshold};
  }
};

template <typename T>
CandidateLists candidate_lists_of(WorkspaceLayout& layout, const SelectParams<T>& params, int64_t num_images) {
  return pruned_candidate_lists(layout, num_images, params.num_classes, params.num_boxes * (params.num_classes - 1),
                                params.score_threshold);
}

}  // namespace

template <typename T>
size_t multiclass_nms_workspace_bytes(const SelectParams<T>& params, int64_t num_images) {
  WorkspaceLayout layout(nullptr);
  candidate_lists_of(layout, params, num_images);
  return layout.bytes();
}

template <typename T>
int launch_multiclass_nms(const SelectParams<T>& params, const BoxSource<T>& source, int64_t num_images,
                          void* workspace, CUstream_st* stream) {
  WorkspaceLayout layout(workspace);
  const CandidateLists lists = candidate_lists_of(layout, params, num_images);
  const auto boxes = static_cast<unsigned>(params.num_boxes), classes = static_cast<unsigned>(params.num_classes);
  return dispatch_dtype(params.dtype, [&](auto type) {
    using In = decltype(type);
    if constexpr (std::is_same_v<compute_t<In>, T>) {
      const auto* scores = static_cast<const In*>(params.scores);
      return static_cast<cudaError_t>(collect_and_select(
          lists, num_images, params.num_classes, stream,
          [&](const CandidateLists& images) { return launch_collect<In>(params, images, stream); },
          [&](const CandidateLists& images) {
            const ScoreRefill<In> refill{scores, boxes, classes, params.score_threshold};
            return launch_select<true>(images, source, params, refill, stream);
          }));
    } else {
      return cudaErrorInvalidValue;
    }
  });
}

template size_t multiclass_nms_workspace_bytes(const SelectParams<float>&, int64_t);
template size_t multiclass_nms_workspace_bytes(const SelectParams<double>&, int64_t);
template int launch_multiclass_nms<float>(const SelectParams<float>&, const BoxSource<float>&, int64_t, void*,
                                          CUstream_st*);
template int launch_multiclass_nms<double>(const SelectParams<double>&, const BoxSource<double>&, int64_t, void*,
                                           CUstream_st*);

}  // namespace ssd_ops
