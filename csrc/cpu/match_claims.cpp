// Objects claim priors of their own.
//
// Rule `greedy` is stated as: take the best pair (object, prior) of which neither is taken, again and again. Pairs are
// totally ordered (IoU falling, then prior, then object), and that order serves both sides: an object prefers priors,
// and a prior objects, by the order of the pairs they make. A matching is stable when no pair outside it comes before
// both pairs that its object and its prior have in it. The greedy matching is stable, and it is the only stable one:
// take the first pair of the order that stands in one stable matching and not in the other. In the other one, its
// object or its prior must have a better pair, that is one that comes earlier and so, up to here, stands in both; but
// then it could not stand beside this one in the first. Deferred acceptance (Gale and Shapley: each object asks the
// best prior that it has not been refused by, each prior keeps the best who asked) ends in a stable matching, in
// whatever order the objects ask; hence in the greedy one. So no object looks at its second best prior unless a better
// pair has the first.
//
// An object that is refused looks for its best prior among those that nobody holds or whose holder it would displace.
// The others would refuse it, now and later, because a prior changes its holder only for a better one.
#include "cpu/match_priors.h"
#include "cpu/match_tile.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// The claims on the priors of one image; g counts its objects.
template <typename T>
struct Claims {
  const MatchTask<T>& task;
  int64_t begin;    // of its objects
  int64_t* holder;  // gt_index of the image, [P], see held_by

  Object<T> object(int64_t g) const { return object_of(task, begin + g); }

  // Whether a prior that h holds would rather have g, whose IoU with it is `value`.
  bool prefers(int64_t prior, int64_t g, T value, int64_t h) const {
    const T other = iou_with(task, object(h), prior);
    return value > other || (value == other && g < h);
  }

  // Whether prior would accept g.
  bool accepts(int64_t prior, int64_t g, T value) const {
    const int64_t h = holder_of(holder[prior]);
    return h < 0 || prefers(prior, g, value, h);
  }

  // Returns the best prior that would accept g, the lowest of equals, -1 none.
  int64_t next_best(int64_t g) const {
    const Object<T> a = object(g);
    T best = 0, value[kMatchTile];
    int64_t prior = -1;
    for (int64_t tile = 0; tile < task.priors.tiles; ++tile) {
      const T* arrays = task.priors.arrays + tile * 5 * kMatchTile;
      if (!touches(a.box, task.priors.boxes[tile]) || !reaches(arrays, a, share_of(best))) continue;
      tile_iou(arrays, a, value);
      for (int64_t j = 0; j < kMatchTile; ++j) {
        if (value[j] > best && accepts(tile * kMatchTile + j, g, value[j])) {
          best = value[j];
          prior = tile * kMatchTile + j;
        }
      }
    }
    return prior;
  }

  // g and whoever it displaces ask until one finds a free prior, or none.
  void settle(int64_t g, int64_t prior) const {
    while (prior >= 0) {
      const int64_t h = holder_of(holder[prior]);
      if (h < 0 || prefers(prior, g, iou_with(task, object(g), prior), h)) {
        holder[prior] = held_by(g);
        task.best_prior[begin + g] = prior;
        if (h < 0) return;
        g = h;
      }
      prior = next_best(g);
    }
    task.best_prior[begin + g] = -1;
  }
};

// The best of the chunks, left in the first one. Chunks come in the order of priors, so the first of equals has the
// lowest.
template <typename T>
void join_chunks(const MatchTask<T>& task, int64_t begin, int64_t end) {
  for (int64_t chunk = 1; chunk < task.chunks; ++chunk) {
    const T* iou = task.best_iou + chunk * task.objects;
    for (int64_t i = begin; i < end; ++i) {
      if (!(iou[i] > task.best_iou[i])) continue;
      task.best_iou[i] = iou[i];
      task.best_prior[i] = task.best_prior[chunk * task.objects + i];
    }
  }
}

template <typename T>
void claim(const MatchTask<T>& task, int64_t image) {
  const int64_t begin = task.offsets[image], count = task.offsets[image + 1] - begin;
  join_chunks(task, begin, begin + count);
  const int64_t* prior = task.best_prior + begin;
  const Claims<T> claims{task, begin, task.gt_index + image * task.priors.count};
  for (int64_t g = 0; g < count; ++g) {
    if (prior[g] < 0) continue;
    if (task.rule == ClaimRule::greedy)
      claims.settle(g, prior[g]);
    else
      claims.holder[prior[g]] = held_by(g);
  }
  for (int64_t g = 0; g < count; ++g)
    if (prior[g] >= 0 && claims.holder[prior[g]] == held_by(g)) learn(task, image, prior[g], g);
}

}  // namespace

void match_claims(const MatchTask<float>& task, int64_t image) { claim(task, image); }
void match_claims(const MatchTask<double>& task, int64_t image) { claim(task, image); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
