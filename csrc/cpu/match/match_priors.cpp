// Tiles of priors outside, objects inside: a tile stays in the first cache, an object is one broadcast. A tile whose
// box an object does not touch is skipped; then a test without division skips tiles in which the object reaches neither
// the threshold nor its best IoU so far. Only the rest is divided and compared exactly.
#include "cpu/match/match_priors.h"

#include <algorithm>
#include <cstring>

#include "cpu/common/box_arrays.h"
#include "cpu/match/prior_tile.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

template <typename T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
};

// NaN coordinates widen nothing: such a prior overlaps nothing.
template <typename T>
Box<T> box_around(const T* boxes, int64_t n) {
  constexpr T inf = std::numeric_limits<T>::infinity();
  Box<T> around{inf, inf, -inf, -inf};
  for (int64_t j = 0; j < n; ++j) {
    around.x1 = lesser(boxes[4 * j], around.x1);
    around.y1 = lesser(boxes[4 * j + 1], around.y1);
    around.x2 = greater(boxes[4 * j + 2], around.x2);
    around.y2 = greater(boxes[4 * j + 3], around.y2);
  }
  return around;
}

template <typename T>
void make_tiles(const PriorTiles<T>& p) {
  for (int64_t tile = 0; tile < p.tiles; ++tile) {
    const int64_t first = tile * kMatchTile, n = std::min(p.count - first, kMatchTile);
    T* arrays = p.arrays + tile * 5 * kMatchTile;
    if (n < kMatchTile) std::fill(arrays, arrays + 5 * kMatchTile, T(0));
    split_boxes(p.priors + 4 * first, n, kMatchTile, arrays);
    p.boxes[tile] = box_around(p.priors + 4 * first, n);
  }
}

// Lists the objects begin .. end - 1 that touch the tile and returns how many they are.
template <typename T>
int64_t list_near(const MatchTask<T>& task, int64_t begin, int64_t end, const Box<T>& tile, int64_t* near) {
  const T* x1 = task.gt_arrays;
  const T *y1 = x1 + task.objects, *x2 = y1 + task.objects, *y2 = x2 + task.objects;
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) {
    near[count] = i;
    count += static_cast<int64_t>((x2[i] > tile.x1) & (x1[i] < tile.x2) & (y2[i] > tile.y1) & (y1[i] < tile.y2));
  }
  return count;
}

// What the priors of one tile have found so far.
template <typename T>
struct Found {
  T iou[kMatchTile];                           // with the best object, 0 none
  typename IntOf<T>::type object[kMatchTile];  // its number in the image
  int32_t near_ignored[kMatchTile];            // reaches the threshold with an ignored object

  void clear() {
    std::memset(iou, 0, sizeof(iou));
    std::memset(object, 0, sizeof(object));
    std::memset(near_ignored, 0, sizeof(near_ignored));
  }
};

// Keeps for each prior the better of its object and object g; the lower one of equals, since objects come in order.
template <typename T>
void keep_better(Found<T>& found, const T* __restrict value, int64_t g) {
  const auto number = static_cast<typename IntOf<T>::type>(g);
  for (int64_t j = 0; j < kMatchTile; ++j) {
    const bool more = value[j] > found.iou[j];
    found.object[j] = more ? number : found.object[j];
    found.iou[j] = more ? value[j] : found.iou[j];
  }
}

// The highest of the values, which are 0 or more: as integers, whose order is the same and whose maximum vectorizes.
template <typename T>
T highest(const T* value) {
  typename IntOf<T>::type bits[kMatchTile], most = 0;
  std::memcpy(bits, value, sizeof(bits));
  for (int64_t j = 0; j < kMatchTile; ++j) most = bits[j] > most ? bits[j] : most;
  T result;
  std::memcpy(&result, &most, sizeof(result));
  return result;
}

// The first place of a value that is there.
template <typename T>
int64_t first_place(const T* value, T wanted) {
  int32_t first = kMatchTile;
  for (int32_t j = 0; j < kMatchTile; ++j) first = std::min(first, value[j] == wanted ? j : int32_t{kMatchTile});
  return first;
}

template <typename T>
void write_tile(const MatchTask<T>& task, int64_t image, int64_t first, const Found<T>& found) {
  const int64_t n = std::min(task.priors.count - first, kMatchTile), at = image * task.priors.count + first;
  std::memset(task.labels + at, 0, n * sizeof(int64_t));
  std::memset(task.gt_index + at, -1, n * sizeof(int64_t));
  std::memset(task.loc_targets + 4 * at, 0, 4 * n * sizeof(T));
  for (int64_t j = 0; j < n; ++j) {
    if (found.iou[j] >= task.threshold && found.iou[j] > T(0))  // a CPU may take a subnormal threshold for 0
      learn(task, image, first + j, found.object[j]);
    else if (found.near_ignored[j] != 0)
      task.labels[at + j] = -1;
  }
}

template <typename T>
void match_tile(const MatchTask<T>& task, int64_t image, int64_t tile, T* best_iou, int64_t* best_prior,
                int64_t* near) {
  const T* arrays = task.priors.arrays + tile * 5 * kMatchTile;
  const int64_t begin = task.offsets[image], end = task.offsets[image + 1];
  const int64_t count = list_near(task, begin, end, task.priors.boxes[tile], near);
  Found<T> found;
  bool any = false;
  T value[kMatchTile];
  for (int64_t i = 0; i < count; ++i) {
    const int64_t object = near[i];
    const Object<T> a = object_of(task, object);
    const bool ignored = task.ignored(object), claims = !ignored && task.rule != ClaimRule::none;
    const T needed = claims ? lesser(best_iou[object], task.threshold) : task.threshold;
    if (!reaches(arrays, a, share_of(needed))) continue;
    if (!any) found.clear();
    any = true;
    tile_iou(arrays, a, value);
    if (ignored) {
      for (int64_t j = 0; j < kMatchTile; ++j)
        found.near_ignored[j] |= (value[j] >= task.threshold) & (value[j] > T(0)) ? 1 : 0;
      continue;
    }
    keep_better(found, value, object - begin);
    if (!claims) continue;
    const T top = highest(value);
    if (top > best_iou[object]) {
      best_iou[object] = top;
      best_prior[object] = tile * kMatchTile + first_place(value, top);
    }
  }
  if (!any) found.clear();
  write_tile(task, image, tile * kMatchTile, found);
}

template <typename T>
void match(const MatchTask<T>& task, int64_t image, int64_t chunk) {
  T* best_iou = task.best_iou + chunk * task.objects;
  int64_t* best_prior = task.best_prior + chunk * task.objects;
  const int64_t begin = task.offsets[image], end = task.offsets[image + 1];
  std::fill(best_iou + begin, best_iou + end, T(0));
  std::fill(best_prior + begin, best_prior + end, int64_t{-1});
  const int64_t tiles = task.priors.tiles;
  for (int64_t tile = tiles * chunk / task.chunks; tile < tiles * (chunk + 1) / task.chunks; ++tile)
    match_tile(task, image, tile, best_iou, best_prior, task.near + chunk * task.objects + begin);
}

}  // namespace

void match_tiles(const PriorTiles<float>& priors) { make_tiles(priors); }
void match_tiles(const PriorTiles<double>& priors) { make_tiles(priors); }
void match_arrays(const float* boxes, int64_t n, float* arrays) { split_boxes(boxes, n, n, arrays); }
void match_arrays(const double* boxes, int64_t n, double* arrays) { split_boxes(boxes, n, n, arrays); }
void match_chunk(const MatchTask<float>& task, int64_t image, int64_t chunk) { match(task, image, chunk); }
void match_chunk(const MatchTask<double>& task, int64_t image, int64_t chunk) { match(task, image, chunk); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
