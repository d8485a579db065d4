// The lists of candidates: where they lie in workspace, and an empty beginning.
#include <cstring>
#include <type_traits>

#include "cuda/common/launch.cuh"
#include "cuda/select/select.h"

namespace ssd_ops {
namespace {

constexpr size_t kListBytes = size_t(256) << 20;

__global__ void clear_kernel(CandidateLists lists, int64_t classes) {
  await_previous();
  const int64_t thread = global_thread(), threads = global_threads();
  if (thread == 0) lists.again[lists.images] = 0;
  for (int64_t i = thread; i < lists.images; i += threads) {
    lists.counts[i] = lists.again[i] = 0;
    lists.bounds[i] = kNoBound;
  }
  for (int64_t i = thread; i < lists.images * classes; i += threads) lists.met[i] = 0;
  for (int64_t i = thread; lists.bins != nullptr && i < lists.images * kBoundParts; i += threads) lists.bins[i] = 0;
}

int64_t images_at_once(int64_t batch, int64_t capacity, size_t item_bytes) {
  const int64_t fit = static_cast<int64_t>(kListBytes) / (capacity * static_cast<int64_t>(item_bytes) + 1);
  return fit < 1 ? 1 : fit < batch ? fit : batch;
}

// The head of a score's number.
template <typename T>
unsigned head_of_score(T score) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr int kTail = 8 * sizeof(T) - 32;
  score += T(0);
  Bits bits;
  std::memcpy(&bits, &score, sizeof(bits));
  const auto top = static_cast<unsigned>(bits >> kTail);
  return top >> 31 != 0 ? top : ~top & 0x7fffffffu;
}

}  // namespace

int clear_candidates(const CandidateLists& lists, int64_t classes, CUstream_st* stream) {
  const int64_t each = classes > kBoundParts ? classes : kBoundParts;
  return launch(clear_kernel, grid_blocks(lists.images * each, 256, 1024), 256, 0, stream, lists, classes);
}

template <typename T>
CandidateLists candidate_lists(void* workspace, int64_t batch, int64_t classes, int64_t capacity, bool bounded,
                               T floor) {
  CandidateLists lists{};
  lists.capacity = capacity;
  lists.images = images_at_once(batch, capacity, candidate_bytes<T>());
  lists.items = workspace;  // may be null, to measure
  const int64_t items = lists.images * capacity * static_cast<int64_t>(candidate_bytes<T>());
  uintptr_t memory = reinterpret_cast<uintptr_t>(workspace) + static_cast<uintptr_t>(round_up(items, 256));
  const auto take = [&](auto** array, int64_t bytes) {
    *array = reinterpret_cast<std::decay_t<decltype(*array)>>(memory);
    memory += static_cast<uintptr_t>(round_up(bytes, 256));
  };
  constexpr auto kInt = static_cast<int64_t>(sizeof(int));
  take(&lists.met, lists.images * classes * kInt);
  take(&lists.bins, lists.images * kBoundParts * kInt);
  take(&lists.bounds, lists.images * kInt);
  take(&lists.again, (lists.images + 1) * kInt);
  take(&lists.counts, lists.images * kInt);
  if (!bounded || capacity <= kEnough) lists.bins = nullptr;
  lists.low = head_of_score(T(1));
  const unsigned high = head_of_score(floor);
  while (high > lists.low && (high - lists.low) >> lists.shift >= kBoundParts) ++lists.shift;
  return lists;
}

template <typename T>
size_t candidate_workspace_bytes(int64_t batch, int64_t classes, int64_t capacity) {
  const CandidateLists lists = candidate_lists<T>(nullptr, batch, classes, capacity, true, T(0));
  return reinterpret_cast<size_t>(lists.counts) + static_cast<size_t>(lists.images) * sizeof(unsigned);
}

template CandidateLists candidate_lists<float>(void*, int64_t, int64_t, int64_t, bool, float);
template CandidateLists candidate_lists<double>(void*, int64_t, int64_t, int64_t, bool, double);
template size_t candidate_workspace_bytes<float>(int64_t, int64_t, int64_t);
template size_t candidate_workspace_bytes<double>(int64_t, int64_t, int64_t);

}  // namespace ssd_ops
