// From the candidates of each image to its detections on the GPU: what multiclass_nms, detect and soft_nms share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/detections.h"
#include "core/dtype.h"

namespace ssd_ops {

// Where the box of a candidate comes from.
template <typename T>
struct BoxSource {
  const Box<T>* boxes;  // [B, N], or [B, N, C] if by_class; deltas where there are priors
  bool by_class;
  const Box<T>* priors;  // [N] or null
  Variances<T> variances;
  bool clip;
  // soft_nms: candidate c * room + k is what class c took as its k-th, rows[b, c, k] its row. Null: candidate c * N +
  // row.
  const unsigned* rows;
  int64_t room;
};

// The candidates of some images of a batch, in workspace.
//
// Where an image may have many, those that stand too far behind are left out once enough are found: `bins` counts the
// candidates in parts of the range of scores, and `bounds` follows from it. Of what stands within the bound nothing is
// ever left out, so if the detections of an image are complete before it is reached, they do not depend on it; if not,
// the image takes part `again`, in a second round without a bound.
struct CandidateLists {
  void* items;            // [images, capacity]
  unsigned* counts;       // [images]
  int* met;               // [images, C]: candidates of each class that were looked at
  int64_t capacity;       // of one image
  int64_t first, images;  // images first .. first + images - 1
  unsigned* bins;         // [images, kBoundParts], aligned to 16; null: nothing is left out
  unsigned* bounds;       // [images]: the head (candidates.cuh) of the last candidate that counts
  unsigned* again;        // [images], and how many of them are not 0
  unsigned low, shift;    // part p of the range has the heads from low + (p << shift) on
  bool second;            // only images that take part again
};

constexpr int kBoundParts = 512;
constexpr unsigned kEnough = 4096;  // candidates that a bound leaves at least
constexpr unsigned kNoBound = ~0u;

// The lists of as many images as have their candidates in some 256 MB, at least of one. `bounded`: where there can be
// more than kEnough, some may be left out; `floor` is the least score. Workspace is aligned to 256 bytes.
template <typename T>
CandidateLists candidate_lists(void* workspace, int64_t batch, int64_t classes, int64_t capacity, bool bounded,
                               T floor);
template <typename T>
size_t candidate_workspace_bytes(int64_t batch, int64_t classes, int64_t capacity);

// Makes the lists empty and the bounds none.
int clear_candidates(const CandidateLists& lists, int64_t classes, CUstream_st* stream);

// Fills the detections of these images; `suppresses`: with NMS in each class.
template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const SelectTask<T>& task,
                  bool with_suppression, CUstream_st* stream);

template <typename T>
constexpr size_t candidate_bytes() {
  return sizeof(T) == 4 ? 8 : 16;
}

// Calls collect(lists) and launch_select for the images of the batch, in groups and rounds.
template <typename T, typename Collect>
int collect_and_select(CandidateLists lists, int64_t batch, const BoxSource<T>& source, const SelectTask<T>& task,
                       bool with_suppression, CUstream_st* stream, Collect&& collect) {
  unsigned* const bins = lists.bins;
  for (const int64_t step = lists.images; lists.first < batch; lists.first += step) {
    lists.images = batch - lists.first < step ? batch - lists.first : step;
    lists.bins = bins;
    int status = clear_candidates(lists, task.classes, stream);
    for (int round = 0; round < (bins != nullptr ? 2 : 1) && status == 0; ++round) {
      lists.second = round == 1;
      if (lists.second) lists.bins = nullptr;
      status = collect(lists);
      if (status == 0) status = launch_select(lists, source, task, with_suppression, stream);
    }
    if (status != 0) return status;
  }
  return 0;
}

}  // namespace ssd_ops
