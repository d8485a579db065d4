// From the candidates of each image to its detections on the GPU: what multiclass_nms, detect and soft_nms share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/detections.h"
#include "cuda/dtype.h"

namespace ssd_ops {

// Where the box of a candidate comes from.
template <typename T>
struct BoxSource {
  const Box<T>* boxes;  // [B, N], or [B, N, C] if by_class; deltas where there are priors
  bool by_class;
  const Box<T>* priors;  // [N] or null
  Variances<T> variances;
  bool clip;
  // soft_nms: candidate c * room + k is what class c took as its k-th, rows[b, c, k] its row. Null: candidate c * N + row.
  const unsigned* rows;
  int64_t room;
};

// The candidates of some images of a batch, in workspace.
struct CandidateLists {
  void* items;             // [images, capacity]
  unsigned* counts;        // [images]
  int* met;                // [images, C]: candidates of each class that were looked at
  int64_t capacity;        // of one image
  int64_t first, images;   // images first .. first + images - 1
};

// Calls run(lists) for the images in groups whose candidates fit into some 256 MB (or a single image at a time).
// Workspace is aligned to 256 bytes.
size_t candidate_workspace_bytes(int64_t batch, int64_t classes, int64_t capacity, size_t item_bytes);
CandidateLists candidate_lists(void* workspace, int64_t batch, int64_t classes, int64_t capacity, size_t item_bytes);

// Sets counts and met to 0.
int clear_candidates(const CandidateLists& lists, int64_t classes, CUstream_st* stream);

// Fills the detections of these images; `suppresses`: with NMS in each class.
template <typename T>
int launch_select(const CandidateLists& lists, const BoxSource<T>& source, const cpu::SelectTask<T>& task,
                  bool with_suppression, CUstream_st* stream);

template <typename T>
constexpr size_t candidate_bytes() {
  return sizeof(T) == 4 ? 8 : 16;
}

}  // namespace ssd_ops
