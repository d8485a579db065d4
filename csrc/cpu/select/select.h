// From the scores of an image to its detections, in the one order that decides everything: score falling, then class,
// then row.
//
// Greedy suppression within each class, and then the best D over the classes, is the same as walking over the
// candidates of all classes in that order, comparing each with the kept boxes of its class, until D are kept: a class's
// boxes are met in its own order, and nothing behind the D-th can matter. So a few hundred candidates are looked at
// where thousands stand above the threshold. The top-k of a class are its first k in the walk.
//
// Memory is bounded by pages: at most `room` candidates are held; when they are too many, the worse half is dropped. If
// a walk over a page that dropped some ends with fewer than D kept, the image is scanned again for those behind the
// last.
#pragma once

#include <algorithm>
#include <limits>

#include "core/detections.h"
#include "cpu/common/load.h"
#include "cpu/common/sort.h"
#include "cpu/nms/suppress.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {

// index = class * N + row
template <typename T>
using Candidate = Ranked<key_t<T>>;

template <typename Key>
inline bool operator<(const Ranked<Key>& a, const Ranked<Key>& b) {
  return a.key != b.key ? a.key < b.key : a.index < b.index;
}

template <typename T>
struct Page {
  Candidate<T>* items;
  int64_t room;
  T floor;  // lower scores need not be added
  int64_t count = 0;
  bool dropped = false;    // whether candidates from `worst` on are missing
  bool continues = false;  // whether only candidates behind `last` are wanted
  Candidate<T> worst{}, last{};

  // The score is at least `floor`, or 0 where the CPU takes a subnormal floor for 0 (torch.set_flush_denormal).
  void add(T score, uint32_t index) {
    if (score == T(0) && above_zero(floor)) return;
    const Candidate<T> item{falling_key(score), index};
    if ((dropped && !(item < worst)) || (continues && !(last < item))) return;
    if (count == room) {
      count = room / 2;
      std::nth_element(items, items + count, items + room);
      worst = items[count];
      dropped = true;
      floor = score_of<T>(worst.key);
      if (!(item < worst)) return;
    }
    items[count++] = item;
  }

  // Adds what another part of the image has found.
  void join(const Page& part) {
    if (part.dropped && (!dropped || part.worst < worst)) {
      worst = part.worst;
      dropped = true;
      count = std::partition(items, items + count, [&](const Candidate<T>& item) { return item < worst; }) - items;
    }
    for (int64_t i = 0; i < part.count; ++i)
      if (!dropped || part.items[i] < worst) items[count++] = part.items[i];
  }
};

// A part's page and its candidates behind it.
template <typename T>
inline Page<T>* part_page(const SelectTask<T>& task, int64_t image, int64_t part) {
  static_assert(sizeof(Page<T>) <= 128);
  return reinterpret_cast<Page<T>*>(task.lists + (image * task.parts + part) * part_bytes());
}

// Scans parts begin .. end - 1 of all images. source.scan(image, row, end_row, page) adds the candidates of those rows.
template <typename T, typename Source>
void scan_parts(const SelectTask<T>& task, Source& source, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image = i / task.parts, part = i % task.parts;
    Page<T>* page = part_page(task, image, part);
    *page = Page<T>{reinterpret_cast<Candidate<T>*>(reinterpret_cast<char*>(page) + 128), kPageItems, task.floor};
    source.scan(image, task.rows * part / task.parts, task.rows * (part + 1) / task.parts, *page);
  }
}

template <typename T>
class Selection {
 public:
  explicit Selection(const SelectTask<T>& task) : task_(task), kept_(task.classes, task.rule), met_(task.classes) {}

  // Fills the detections of one image. source.box(image, row, label) is a box.
  template <typename Source>
  void image(Source& source, int64_t image) {
    kept_.clear();
    for (int64_t c = 0; c < task_.classes; ++c) met_[c] = 0;
    count_ = 0;
    int64_t room = kPageItems;
    Page<T> page{};
    for (bool first = true;; first = false) {
      const Candidate<T> behind = first ? Candidate<T>{} : page.items[page.count - 1];  // before `grow` frees the page
      const bool joins = first && task_.parts > 1;
      items_.grow(joins ? task_.parts * kPageItems : room);
      page = Page<T>{items_.data(), room, task_.floor};
      if (!first) {
        page.continues = true;
        page.last = behind;
      }
      if (joins) {
        for (int64_t part = 0; part < task_.parts; ++part) page.join(*part_page(task_, image, part));
      } else {
        source.scan(image, 0, task_.rows, page);
      }
      walk(source, image, page);
      if (count_ == task_.out.most || !page.dropped) break;
      room *= 4;
    }
    finish(image);
  }

 private:
  // Sorts only as far as the walk comes.
  template <typename Source>
  void walk(Source& source, int64_t image, const Page<T>& page) {
    Candidate<T>* items = page.items;
    int64_t chunk = 256;
    for (int64_t begin = 0, end; begin < page.count; begin = end, chunk *= 2) {
      end = page.count - begin > chunk ? begin + chunk : page.count;
      if (end < page.count) std::nth_element(items + begin, items + end, items + page.count);
      std::sort(items + begin, items + end);
      for (int64_t i = begin; i < end; ++i) {
        if (!meet(source, image, items[i])) return;
      }
    }
  }

  // Returns whether more are wanted.
  template <typename Source>
  bool meet(Source& source, int64_t image, const Candidate<T>& candidate) {
    const int64_t label = candidate.index / task_.rows, row = candidate.index % task_.rows;
    if (met_[label] >= task_.candidates_per_class) return true;
    const Box<T> box = source.box(image, row, label);
    if (too_small(box, task_.least_side)) return true;
    ++met_[label];
    const T box_area = area(box);
    if (takes_part(box, box_area, task_.rule)) {
      if (kept_.suppress(label, box, box_area)) return true;
      kept_.add(label, box, box_area);
    }
    const int64_t place = image * task_.out.most + count_;
    T* out = task_.out.boxes + 4 * place;
    out[0] = box.x1;
    out[1] = box.y1;
    out[2] = box.x2;
    out[3] = box.y2;
    task_.out.scores[place] = score_of<T>(candidate.key);
    task_.out.labels[place] = label;
    task_.out.rows[place] = row;
    return ++count_ < task_.out.most;
  }

  void finish(int64_t image) {
    const int64_t most = task_.out.most, rest = most - count_, place = image * most + count_;
    std::memset(task_.out.boxes + 4 * place, 0, sizeof(T) * 4 * static_cast<size_t>(rest));
    std::memset(task_.out.scores + place, 0, sizeof(T) * static_cast<size_t>(rest));
    std::memset(task_.out.labels + place, 0, sizeof(int64_t) * static_cast<size_t>(rest));
    std::memset(task_.out.rows + place, 0, sizeof(int64_t) * static_cast<size_t>(rest));
    task_.out.counts[image] = count_;
  }

  const SelectTask<T>& task_;
  BoxLists<T> kept_;      // by class
  Scratch<int64_t> met_;  // candidates of each class so far
  Scratch<Candidate<T>> items_;
  int64_t count_ = 0;
};

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
