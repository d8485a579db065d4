// From the scores of an image to its detections, in one order: descending score, then class, then box index.
//
// Greedy suppression within each class, followed by the best D over all classes, equals visiting the candidates of all
// classes in that order, comparing each with the kept boxes of its class, until D are kept: the boxes of a class are
// visited in the order of the class, and nothing after the D-th kept box can change the result. So a few hundred
// candidates are visited where thousands exceed the threshold. The top-k of a class are its first k visited candidates.
//
// Memory is bounded: a buffer holds at most `capacity` candidates; when it is full, the worse half is dropped. If a
// buffer that has dropped some is visited without keeping D boxes, the image is scanned again for the candidates that
// follow the last one, with a larger buffer.
//
// Read in this order: core/detections.h (the parameters), this file, multiclass_nms.cpp, detect.cpp, soft_nms.cpp.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/detections.h"
#include "cpu/common/box_arrays.h"
#include "cpu/common/load.h"
#include "cpu/common/rows.h"
#include "cpu/common/sort.h"
#include "cpu/nms/suppress.h"
#include "cpu/select/segments.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// The descending key of the score, and index = class * N + box.
template <typename T>
using Candidate = KeyIndex<sort_key_t<T>>;

template <typename Key>
inline bool operator<(const KeyIndex<Key>& a, const KeyIndex<Key>& b) {
  return a.key != b.key ? a.key < b.key : a.index < b.index;
}

template <typename T>
struct CandidateBuffer {
  Candidate<T>* items;
  int64_t capacity;
  T min_score;  // lower scores need not be added
  int64_t count = 0;
  bool dropped = false;    // whether candidates from `first_dropped` on are missing
  bool continues = false;  // whether only candidates that follow `last_visited` are wanted
  Candidate<T> first_dropped{}, last_visited{};

  // The score is at least `min_score`, or 0 if the CPU treats a subnormal min_score as 0 (torch.set_flush_denormal).
  void add(T score, uint32_t index) {
    if (score == T(0) && above_zero(min_score)) return;
    const Candidate<T> item{descending_key_nan_first(score), index};
    if ((dropped && !(item < first_dropped)) || (continues && !(last_visited < item))) return;
    if (count == capacity) {
      count = capacity / 2;
      std::nth_element(items, items + count, items + capacity);
      first_dropped = items[count];
      dropped = true;
      min_score = score_of_key<T>(first_dropped.key);
      if (!(item < first_dropped)) return;
    }
    items[count++] = item;
  }

  // Adds the candidates of a segment of the image.
  void merge(const CandidateBuffer& segment) {
    if (segment.dropped && (!dropped || segment.first_dropped < first_dropped)) {
      first_dropped = segment.first_dropped;
      dropped = true;
      const auto precedes = [&](const Candidate<T>& item) { return item < first_dropped; };
      count = std::partition(items, items + count, precedes) - items;
    }
    for (int64_t i = 0; i < segment.count; ++i)
      if (!dropped || segment.items[i] < first_dropped) items[count++] = segment.items[i];
  }
};

// The buffer of a segment of an image, followed by its candidates.
template <typename T>
inline CandidateBuffer<T>* segment_buffer(const Segments& segments, int64_t image, int64_t segment) {
  static_assert(sizeof(CandidateBuffer<T>) <= kSegmentHeaderBytes && sizeof(Candidate<T>) <= kMaxCandidateBytes);
  return reinterpret_cast<CandidateBuffer<T>*>(segments.buffers + (image * segments.count + segment) * segment_bytes());
}

// Scans segments begin .. end - 1 of all images. source.scan(image, box, end_box, buffer) adds the candidates of those
// boxes.
template <typename T, typename Source>
void scan_segments(const SelectParams<T>& params, const Segments& segments, Source& source, int64_t begin,
                   int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image = i / segments.count, segment = i % segments.count;
    auto* buffer = segment_buffer<T>(segments, image, segment);
    *buffer = CandidateBuffer<T>{reinterpret_cast<Candidate<T>*>(reinterpret_cast<char*>(buffer) + kSegmentHeaderBytes),
                                 kBufferCapacity, params.score_threshold};
    source.scan(image, params.num_boxes * segment / segments.count, params.num_boxes * (segment + 1) / segments.count,
                *buffer);
  }
}

template <typename T>
class Selection {
 public:
  Selection(const SelectParams<T>& params, const Segments& segments)
      : params_(params),
        segments_(segments),
        kept_(params.num_classes, params.thresholds),
        num_visited_(params.num_classes) {}

  // Fills the detections of one image. source.box(image, index, label) is a box.
  template <typename Source>
  void select(Source& source, int64_t image) {
    kept_.clear();
    for (int64_t c = 0; c < params_.num_classes; ++c) num_visited_[c] = 0;
    count_ = 0;
    int64_t capacity = kBufferCapacity;
    CandidateBuffer<T> buffer{};
    for (bool first = true;; first = false) {
      const Candidate<T> last = first ? Candidate<T>{} : buffer.items[buffer.count - 1];  // before `grow` frees it
      const bool merges = first && segments_.count > 1;
      items_.grow(merges ? segments_.count * kBufferCapacity : capacity);
      buffer = CandidateBuffer<T>{items_.data(), capacity, params_.score_threshold};
      if (!first) {
        buffer.continues = true;
        buffer.last_visited = last;
      }
      if (merges) {
        for (int64_t segment = 0; segment < segments_.count; ++segment)
          buffer.merge(*segment_buffer<T>(segments_, image, segment));
      } else {
        source.scan(image, 0, params_.num_boxes, buffer);
      }
      visit_all(source, image, buffer);
      if (count_ == params_.out.max_detections || !buffer.dropped) break;
      capacity *= 4;
    }
    zero_pad(image);
  }

 private:
  // Sorts the candidates chunk by chunk, only as far as they are visited.
  template <typename Source>
  void visit_all(Source& source, int64_t image, const CandidateBuffer<T>& buffer) {
    Candidate<T>* items = buffer.items;
    int64_t chunk = 256;
    for (int64_t begin = 0, end; begin < buffer.count; begin = end, chunk *= 2) {
      end = buffer.count - begin > chunk ? begin + chunk : buffer.count;
      if (end < buffer.count) std::nth_element(items + begin, items + end, items + buffer.count);
      std::sort(items + begin, items + end);
      for (int64_t i = begin; i < end; ++i) {
        if (!visit(source, image, items[i])) return;
      }
    }
  }

  // Keeps or suppresses one candidate. Returns whether more detections are wanted.
  template <typename Source>
  bool visit(Source& source, int64_t image, const Candidate<T>& candidate) {
    const int64_t label = candidate.index / params_.num_boxes, index = candidate.index % params_.num_boxes;
    if (num_visited_[label] >= params_.candidates_per_class) return true;
    const Box<T> box = source.box(image, index, label);
    if (too_small(box, params_.min_size)) return true;
    ++num_visited_[label];
    const T box_area = area(box);
    if (can_suppress(box, box_area, params_.thresholds)) {
      if (kept_.suppresses(label, box, box_area)) return true;
      kept_.add(label, box, box_area);
    }
    const int64_t out = image * params_.out.max_detections + count_;
    store_box(box, params_.out.boxes, out);
    params_.out.scores[out] = score_of_key<T>(candidate.key);
    params_.out.labels[out] = label;
    params_.out.box_indices[out] = index;
    return ++count_ < params_.out.max_detections;
  }

  void zero_pad(int64_t image) {
    const int64_t first = image * params_.out.max_detections + count_;
    const auto rest = static_cast<size_t>(params_.out.max_detections - count_);
    std::memset(params_.out.boxes + 4 * first, 0, sizeof(T) * 4 * rest);
    std::memset(params_.out.scores + first, 0, sizeof(T) * rest);
    std::memset(params_.out.labels + first, 0, sizeof(int64_t) * rest);
    std::memset(params_.out.box_indices + first, 0, sizeof(int64_t) * rest);
    params_.out.counts[image] = count_;
  }

  const SelectParams<T>& params_;
  const Segments& segments_;
  BoxLists<T> kept_;              // a list for each class
  Scratch<int64_t> num_visited_;  // candidates of each class so far
  Scratch<Candidate<T>> items_;
  int64_t count_ = 0;
};

// scan_segments() with Source<In>, which reads inputs of dtype In.
template <template <typename> class Source, template <typename> class Params, typename T>
void scan_as_dtype(const Params<T>& params, int64_t begin, int64_t end) {
  with_dtype<T>(params.select.dtype, [&](auto type) {
    Source<decltype(type)> source(params);
    scan_segments(params.select, params.segments, source, begin, end);
  });
}

// Fills the detections of images begin .. end - 1, likewise.
template <template <typename> class Source, template <typename> class Params, typename T>
void select_images(const Params<T>& params, int64_t begin, int64_t end) {
  with_dtype<T>(params.select.dtype, [&](auto type) {
    Source<decltype(type)> source(params);
    Selection<T> selection(params.select, params.segments);
    for (int64_t image = begin; image < end; ++image) selection.select(source, image);
  });
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
