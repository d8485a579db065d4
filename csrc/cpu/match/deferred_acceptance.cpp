// Assigns each ground truth a prior of its own, by deferred acceptance (Gale and Shapley).
//
// The greedy rule repeatedly matches the best pair (ground truth, prior) of which neither is matched yet. Pairs are
// totally ordered (descending IoU, then ascending prior, then ascending ground truth), and both sides prefer partners
// by the order of the pairs that they form. A matching is stable if no pair outside it precedes both the pair of its
// ground truth and the pair of its prior in the matching. The greedy matching is stable, and it is the only stable one:
// suppose there are two, and consider the first pair that is in one of them and not in the other. In the other one its
// ground truth or its prior must have a better pair, that is an earlier one, which by the choice of the first pair is
// in both matchings; but then it could not be in the same matching as this pair. Deferred acceptance (each ground truth
// proposes to the best prior that has not rejected it, each prior keeps the best proposal) ends in a stable matching,
// whatever the order of the proposals; hence in the greedy one. So a ground truth needs its second-best prior only if
// the first prefers another ground truth.
//
// A ground truth that is rejected searches for its best priors among those that are free or would accept it. All others
// would reject it now and later, because a prior changes its ground truth only for a better one. It keeps a list of the
// best priors found (1 at first, more with each search) and proposes to them one after the other, so that thousands of
// ground truths that prefer the same priors (nested boxes) do not scan all priors after every rejection.
#include <algorithm>
#include <cstdlib>

#include "cpu/common/scratch.h"
#include "cpu/match/match_priors.h"
#include "cpu/match/prior_tile.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// A prior that a ground truth may propose to; the better one first.
template <typename T>
struct Preference {
  T iou;
  int64_t prior;
};
template <typename T>
inline bool operator<(const Preference<T>& a, const Preference<T>& b) {
  return a.iou != b.iou ? a.iou > b.iou : a.prior < b.prior;
}

constexpr int64_t kMaxPreferences = 256;  // in the list of one ground truth

// The preferences of one ground truth, best first; it has not yet proposed to `next` .. `count` - 1.
template <typename T>
struct PreferenceList {
  Preference<T>* items;
  int64_t capacity, count, next;
  bool complete;  // no prior outside the list would accept the ground truth

  void release() {
    std::free(items);
    *this = {};
  }
};

// The assignment of the priors of one image; `gt` is an index in the image.
template <typename T>
class DeferredAcceptance {
 public:
  DeferredAcceptance(const MatchParams<T>& params, int64_t image)
      : params_(params),
        begin_(params.offsets[image]),
        num_gt_(params.offsets[image + 1] - begin_),
        gt_index_(params.gt_index + image * params.tiles.num_priors) {}
  ~DeferredAcceptance() {
    for (int64_t gt = 0; gt < lists_.size(); ++gt) lists_[gt].release();
  }
  DeferredAcceptance(const DeferredAcceptance&) = delete;
  DeferredAcceptance& operator=(const DeferredAcceptance&) = delete;

  bool is_assigned(int64_t gt, int64_t prior) const { return gt_index_[prior] == encode_assigned(gt); }

  void assign(int64_t gt, int64_t prior) {
    gt_index_[prior] = encode_assigned(gt);
    if (assigned_iou_.size() > 0) assigned_iou_[prior] = prior_iou(params_, load(gt), prior);
  }

  // `gt` proposes to `prior`. A ground truth that is rejected or displaced proposes to its next preference, until a
  // free prior accepts or no preference is left. best_prior becomes the assigned prior of each, -1 for none.
  void propose(int64_t gt, int64_t prior) {
    while (prior >= 0) {
      const int64_t displaced = decode_assigned(gt_index_[prior]);
      if (accepts(prior, gt, prior_iou(params_, load(gt), prior))) {
        assign(gt, prior);
        params_.best_prior[begin_ + gt] = prior;
        if (displaced < 0) return;
        gt = displaced;
      }
      prior = next_preference(gt);
    }
    params_.best_prior[begin_ + gt] = -1;
  }

 private:
  GroundTruth<T> load(int64_t gt) const { return load_gt(params_, begin_ + gt); }

  // Whether `prior` would accept `gt`, whose IoU with it is `iou`: it is free, or prefers `gt` to its ground truth.
  bool accepts(int64_t prior, int64_t gt, T iou) const {
    const int64_t current = decode_assigned(gt_index_[prior]);
    if (current < 0) return true;
    const T other = assigned_iou_.size() > 0 ? assigned_iou_.data()[prior] : prior_iou(params_, load(current), prior);
    return iou > other || (iou == other && gt < current);
  }

  // Returns the best prior that would accept `gt`, the lowest of ties, -1 for none.
  int64_t next_preference(int64_t gt) {
    if (lists_.size() == 0) allocate();
    PreferenceList<T>& list = lists_[gt];
    while (true) {
      while (list.next < list.count) {
        const Preference<T> preference = list.items[list.next++];
        if (accepts(preference.prior, gt, preference.iou)) return preference.prior;
      }
      if (list.complete) return -1;
      search(list, gt);
    }
  }

  // Called at the first rejection: most images have none.
  void allocate() {
    lists_.grow(num_gt_);
    std::memset(static_cast<void*>(lists_.data()), 0, sizeof(PreferenceList<T>) * static_cast<size_t>(num_gt_));
    found_.grow(2 * kMaxPreferences);
    assigned_iou_.grow(params_.tiles.num_tiles * kPriorTile);
    for (int64_t prior = 0; prior < assigned_iou_.size(); ++prior) {
      const int64_t gt = prior < params_.tiles.num_priors ? decode_assigned(gt_index_[prior]) : -1;
      assigned_iou_[prior] = gt < 0 ? T(0) : prior_iou(params_, load(gt), prior);
    }
  }

  // Fills the list with the best priors that would accept `gt`. Candidates are collected up to twice the wanted number
  // before the worse half is dropped, so that they are seldom sorted.
  void search(PreferenceList<T>& list, int64_t gt) {
    const int64_t wanted = list.capacity == 0 ? 1 : std::min<int64_t>(4 * list.capacity, kMaxPreferences);
    const GroundTruth<T> box = load(gt);
    int64_t count = 0;
    bool dropped = false;
    T min_iou = 0, ious[kPriorTile];  // only priors with a higher IoU than min_iou can enter the list
    for (int64_t tile = 0; tile < params_.tiles.num_tiles; ++tile) {
      const T* arrays = params_.tiles.arrays + tile * 5 * kPriorTile;
      if (!overlaps(box.box, params_.tiles.bounds[tile]) || !reaches_iou(arrays, box, min_overlap_ratio(min_iou)))
        continue;
      tile_iou(arrays, box, ious);
      for (int64_t j = 0; j < kPriorTile; ++j) {
        const int64_t prior = tile * kPriorTile + j;
        if (!(ious[j] > min_iou) || ious[j] < assigned_iou_[prior] || !accepts(prior, gt, ious[j])) continue;
        found_[count++] = {ious[j], prior};
        if (count < 2 * wanted && wanted > 1) continue;
        dropped |= count > wanted;
        min_iou = keep_best(&count, wanted);
      }
    }
    dropped |= count > wanted || (wanted == 1 && count == 1);
    if (count > 0) keep_best(&count, wanted);
    store(list, count, wanted);
    list.complete = !dropped;
  }

  // Keeps the `wanted` best of those found, sorted, and returns the lowest of their IoUs.
  T keep_best(int64_t* count, int64_t wanted) {
    std::sort(found_.data(), found_.data() + *count);
    *count = std::min(*count, wanted);
    return found_[*count - 1].iou;
  }

  void store(PreferenceList<T>& list, int64_t count, int64_t wanted) {
    if (wanted > list.capacity) {
      list.release();
      list.items = static_cast<Preference<T>*>(std::malloc(static_cast<size_t>(wanted) * sizeof(Preference<T>)));
      if (list.items == nullptr) throw std::bad_alloc();
      list.capacity = wanted;
    }
    if (count > 0)
      std::memcpy(static_cast<void*>(list.items), found_.data(), sizeof(Preference<T>) * static_cast<size_t>(count));
    list.count = count;
    list.next = 0;
  }

  const MatchParams<T>& params_;
  int64_t begin_, num_gt_;  // packed index of the first ground truth of the image, and their number
  int64_t* gt_index_;       // of the image, [P], see encode_assigned()
  Scratch<PreferenceList<T>> lists_;
  Scratch<T> assigned_iou_;  // the IoU of each prior with its ground truth, 0 if it is free
  Scratch<Preference<T>> found_;
};

// Reduces best_iou and best_prior over the segments into the first one. Segments are in ascending order of priors, so
// ties go to the lowest prior.
template <typename T>
void reduce_segments(const MatchParams<T>& params, int64_t begin, int64_t end) {
  for (int64_t segment = 1; segment < params.num_segments; ++segment) {
    const T* iou = params.best_iou + segment * params.num_packed_gt;
    for (int64_t i = begin; i < end; ++i) {
      if (!(iou[i] > params.best_iou[i])) continue;
      params.best_iou[i] = iou[i];
      params.best_prior[i] = params.best_prior[segment * params.num_packed_gt + i];
    }
  }
}

template <typename T>
void assign_image(const MatchParams<T>& params, int64_t image) {
  const int64_t begin = params.offsets[image], num_gt = params.offsets[image + 1] - begin;
  reduce_segments(params, begin, begin + num_gt);
  const int64_t* prior = params.best_prior + begin;
  DeferredAcceptance<T> assignment(params, image);
  for (int64_t gt = 0; gt < num_gt; ++gt) {
    if (prior[gt] < 0) continue;
    if (params.rule == MatchRule::greedy)
      assignment.propose(gt, prior[gt]);
    else
      assignment.assign(gt, prior[gt]);  // rule last: a later ground truth replaces an earlier one
  }
  for (int64_t gt = 0; gt < num_gt; ++gt)
    if (prior[gt] >= 0 && assignment.is_assigned(gt, prior[gt])) write_match(params, image, prior[gt], gt);
}

}  // namespace

void assign_priors(const MatchParams<float>& params, int64_t image) { assign_image(params, image); }
void assign_priors(const MatchParams<double>& params, int64_t image) { assign_image(params, image); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
