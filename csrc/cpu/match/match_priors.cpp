// Matching by threshold. Read in this order: match_priors.h (the parameters), prior_tile.h (one ground truth against a
// tile), this file, deferred_acceptance.cpp (the assignment of one prior to each ground truth).
//
// The outer loop is over tiles of priors, which stay in the L1 cache; the inner loop is over ground truths, each one
// broadcast. A tile whose bounds a ground truth does not overlap is skipped. A test without division then skips tiles
// in which the ground truth reaches neither the threshold nor its best IoU so far. Only for the rest are IoUs computed.
#include "cpu/match/match_priors.h"

#include <algorithm>
#include <cstring>

#include "cpu/match/prior_tile.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// A signed integer as wide as T, so that both fill the same vectors.
template <typename T>
using lane_int_t = std::make_signed_t<sort_key_t<T>>;

template <typename T>
Box<T> bounds_of(const T* boxes, int64_t n) {
  Box<T> bounds = empty_bounds<T>();
  for (int64_t j = 0; j < n; ++j) bounds = enclose(bounds, load_box(boxes, j));
  return bounds;
}

template <typename T>
void fill_tiles(const PriorTiles<T>& tiles) {
  for (int64_t tile = 0; tile < tiles.num_tiles; ++tile) {
    const int64_t first = tile * kPriorTile, n = std::min(tiles.num_priors - first, kPriorTile);
    T* arrays = tiles.arrays + tile * 5 * kPriorTile;
    if (n < kPriorTile) std::fill(arrays, arrays + 5 * kPriorTile, T(0));
    split_boxes(tiles.priors + 4 * first, n, kPriorTile, arrays);
    tiles.bounds[tile] = bounds_of(tiles.priors + 4 * first, n);
  }
}

// Lists the packed ground truths begin .. end - 1 that overlap the bounds of a tile and returns their number.
// overlaps() on separate arrays, without branches.
template <typename T>
int64_t list_overlapping_gt(const MatchParams<T>& params, int64_t begin, int64_t end, const Box<T>& bounds,
                            int64_t* overlapping_gt) {
  const T* x1 = params.gt_arrays;
  const T *y1 = x1 + params.num_packed_gt, *x2 = y1 + params.num_packed_gt, *y2 = x2 + params.num_packed_gt;
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) {
    overlapping_gt[count] = i;
    count +=
        static_cast<int64_t>((x2[i] > bounds.x1) & (x1[i] < bounds.x2) & (y2[i] > bounds.y1) & (y1[i] < bounds.y2));
  }
  return count;
}

// The best match of each prior of a tile so far.
template <typename T>
struct TileMatches {
  T iou[kPriorTile];                     // with the best ground truth, 0 none
  lane_int_t<T> gt[kPriorTile];          // its index in the image
  int32_t overlaps_ignored[kPriorTile];  // whether the prior reaches the threshold with an ignored ground truth

  void clear() {
    std::memset(iou, 0, sizeof(iou));
    std::memset(gt, 0, sizeof(gt));
    std::memset(overlaps_ignored, 0, sizeof(overlaps_ignored));
  }
};

// Updates the best match of each prior with the IoUs of `gt`. Ties go to the lower index, since ground truths come in
// order.
template <typename T>
void update_best(TileMatches<T>& matches, const T* __restrict iou, int64_t gt) {
  const auto index = static_cast<lane_int_t<T>>(gt);
  for (int64_t j = 0; j < kPriorTile; ++j) {
    const bool higher = iou[j] > matches.iou[j];
    matches.gt[j] = higher ? index : matches.gt[j];
    matches.iou[j] = higher ? iou[j] : matches.iou[j];
  }
}

// The maximum of values of 0 or more, compared as integers: the order is the same, and the reduction vectorizes.
template <typename T>
T max_value(const T* values) {
  lane_int_t<T> bits[kPriorTile], max = 0;
  std::memcpy(bits, values, sizeof(bits));
  for (int64_t j = 0; j < kPriorTile; ++j) max = bits[j] > max ? bits[j] : max;
  return from_bits<T>(static_cast<sort_key_t<T>>(max));
}

// The lowest index of a value that occurs.
template <typename T>
int64_t index_of(const T* values, T wanted) {
  int32_t first = kPriorTile;
  for (int32_t j = 0; j < kPriorTile; ++j) first = std::min(first, values[j] == wanted ? j : int32_t{kPriorTile});
  return first;
}

template <typename T>
void write_tile(const MatchParams<T>& params, int64_t image, int64_t first_prior, const TileMatches<T>& matches) {
  const int64_t num_priors = params.tiles.num_priors, n = std::min(num_priors - first_prior, kPriorTile);
  const int64_t index = image * num_priors + first_prior;
  std::memset(params.labels + index, 0, n * sizeof(int64_t));
  std::memset(params.gt_index + index, -1, n * sizeof(int64_t));
  std::memset(params.loc_targets + 4 * index, 0, 4 * n * sizeof(T));
  for (int64_t j = 0; j < n; ++j) {
    if (matches.iou[j] >= params.iou_threshold && matches.iou[j] > T(0))  // a CPU may treat a subnormal threshold as 0
      write_match(params, image, first_prior + j, matches.gt[j]);
    else if (matches.overlaps_ignored[j] != 0)
      params.labels[index + j] = -1;
  }
}

template <typename T>
void match_tile(const MatchParams<T>& params, int64_t image, int64_t tile, T* best_iou, int64_t* best_prior,
                int64_t* overlapping_gt) {
  const T* arrays = params.tiles.arrays + tile * 5 * kPriorTile;
  const int64_t begin = params.offsets[image], end = params.offsets[image + 1];
  const int64_t num_overlapping = list_overlapping_gt(params, begin, end, params.tiles.bounds[tile], overlapping_gt);
  TileMatches<T> matches;
  bool any = false;
  T ious[kPriorTile];
  for (int64_t i = 0; i < num_overlapping; ++i) {
    const int64_t packed_gt = overlapping_gt[i];
    const GroundTruth<T> gt = load_gt(params, packed_gt);
    const bool ignored = params.ignored(packed_gt), wants_prior = !ignored && params.rule != MatchRule::none;
    const T needed = wants_prior ? lesser(best_iou[packed_gt], params.iou_threshold) : params.iou_threshold;
    if (!reaches_iou(arrays, gt, min_overlap_ratio(needed))) continue;
    if (!any) matches.clear();
    any = true;
    tile_iou(arrays, gt, ious);
    if (ignored) {
      for (int64_t j = 0; j < kPriorTile; ++j)
        matches.overlaps_ignored[j] |= ((ious[j] >= params.iou_threshold) & (ious[j] > T(0))) ? 1 : 0;
      continue;
    }
    update_best(matches, ious, packed_gt - begin);
    if (!wants_prior) continue;
    const T max_iou = max_value(ious);
    if (max_iou > best_iou[packed_gt]) {
      best_iou[packed_gt] = max_iou;
      best_prior[packed_gt] = tile * kPriorTile + index_of(ious, max_iou);
    }
  }
  if (!any) matches.clear();
  write_tile(params, image, tile * kPriorTile, matches);
}

template <typename T>
void match_tiles(const MatchParams<T>& params, int64_t image, int64_t segment) {
  T* best_iou = params.best_iou + segment * params.num_packed_gt;
  int64_t* best_prior = params.best_prior + segment * params.num_packed_gt;
  const int64_t begin = params.offsets[image], end = params.offsets[image + 1];
  std::fill(best_iou + begin, best_iou + end, T(0));
  std::fill(best_prior + begin, best_prior + end, int64_t{-1});
  const int64_t num_tiles = params.tiles.num_tiles, last = num_tiles * (segment + 1) / params.num_segments;
  for (int64_t tile = num_tiles * segment / params.num_segments; tile < last; ++tile)
    match_tile(params, image, tile, best_iou, best_prior,
               params.overlapping_gt + segment * params.num_packed_gt + begin);
}

}  // namespace

void make_prior_tiles(const PriorTiles<float>& tiles) { fill_tiles(tiles); }
void make_prior_tiles(const PriorTiles<double>& tiles) { fill_tiles(tiles); }
void split_gt_boxes(const float* boxes, int64_t n, float* arrays) { split_boxes(boxes, n, n, arrays); }
void split_gt_boxes(const double* boxes, int64_t n, double* arrays) { split_boxes(boxes, n, n, arrays); }
void match_segment(const MatchParams<float>& params, int64_t image, int64_t segment) {
  match_tiles(params, image, segment);
}
void match_segment(const MatchParams<double>& params, int64_t image, int64_t segment) {
  match_tiles(params, image, segment);
}

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
