// How the candidates of an image are buffered and divided among threads, for csrc/ops and the kernels.
#pragma once

#include <cstdint>

namespace ssd_ops::cpu {

// Candidates of an image that are buffered at first; see select.h.
constexpr int64_t kBufferCapacity = 8192;

// If there are fewer images than threads, the boxes of an image are scanned in `count` segments by different threads.
// Each writes its candidates to segment_bytes() of `buffers` (aligned to 64), before the images are finished.
struct Segments {
  int64_t count = 1;
  char* buffers = nullptr;
};

constexpr int64_t kSegmentHeaderBytes = 128;  // a CandidateBuffer, see select.h
constexpr int64_t kMaxCandidateBytes = 16;
constexpr int64_t segment_bytes() { return kSegmentHeaderBytes + kBufferCapacity * kMaxCandidateBytes; }

}  // namespace ssd_ops::cpu
