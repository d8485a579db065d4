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
// An object that is refused looks for its best priors among those that nobody holds or whose holder it would displace.
// The others would refuse it, now and later, because a prior changes its holder only for a better one. It remembers the
// best of them, 1 at first and more each time it has to look again, and asks them one after the other: thousands of
// objects that all want the same priors (one inside the other) do not look through all priors at every refusal.
#include <algorithm>

#include "cpu/common/scratch.h"
#include "cpu/match/match_priors.h"
#include "cpu/match/prior_tile.h"

namespace ssd_ops::cpu::SSD_OPS_ISA {
namespace {

// A prior that an object would ask; the better one first.
template <typename T>
struct Wish {
  T value;  // their IoU
  int64_t prior;
};
template <typename T>
inline bool operator<(const Wish<T>& a, const Wish<T>& b) {
  return a.value != b.value ? a.value > b.value : a.prior < b.prior;
}

constexpr int64_t kMostWishes = 256;  // remembered for an object

// The wishes of one object, best first: `next` .. `count` - 1 are still to be asked.
template <typename T>
struct WishList {
  Wish<T>* items;
  int64_t room, count, next;
  bool complete;  // no other prior would accept the object

  void forget() {
    std::free(items);
    *this = {};
  }
};

// The claims on the priors of one image; g counts its objects.
template <typename T>
class Claims {
 public:
  Claims(const MatchTask<T>& task, int64_t image)
      : task_(task),
        begin_(task.offsets[image]),
        count_(task.offsets[image + 1] - begin_),
        holder_(task.gt_index + image * task.priors.count) {}
  ~Claims() {
    for (int64_t g = 0; g < lists_.size(); ++g) lists_[g].forget();
  }
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;

  bool holds(int64_t g, int64_t prior) const { return holder_[prior] == held_by(g); }
  void take(int64_t g, int64_t prior) {
    holder_[prior] = held_by(g);
    if (held_.size() > 0) held_[prior] = iou_with(task_, object(g), prior);
  }

  // g and whoever it displaces ask until one finds a free prior, or none.
  void settle(int64_t g, int64_t prior) {
    while (prior >= 0) {
      const int64_t h = holder_of(holder_[prior]);
      if (accepts(prior, g, iou_with(task_, object(g), prior))) {
        take(g, prior);
        task_.best_prior[begin_ + g] = prior;
        if (h < 0) return;
        g = h;
      }
      prior = next_best(g);
    }
    task_.best_prior[begin_ + g] = -1;
  }

 private:
  Object<T> object(int64_t g) const { return object_of(task_, begin_ + g); }

  // Whether prior would accept g, whose IoU with it is `value`: it is free, or would rather have g than its holder.
  bool accepts(int64_t prior, int64_t g, T value) const {
    const int64_t h = holder_of(holder_[prior]);
    if (h < 0) return true;
    const T other = held_.size() > 0 ? held_.data()[prior] : iou_with(task_, object(h), prior);
    return value > other || (value == other && g < h);
  }

  // Returns the best prior that would accept g, the lowest of equals, -1 none.
  int64_t next_best(int64_t g) {
    if (lists_.size() == 0) prepare();
    WishList<T>& list = lists_[g];
    while (true) {
      while (list.next < list.count) {
        const Wish<T> wish = list.items[list.next++];
        if (accepts(wish.prior, g, wish.value)) return wish.prior;
      }
      if (list.complete) return -1;
      refill(list, g);
    }
  }

  // At the first refusal: most images have none.
  void prepare() {
    lists_.grow(count_);
    std::memset(static_cast<void*>(lists_.data()), 0, sizeof(WishList<T>) * static_cast<size_t>(count_));
    found_.grow(2 * kMostWishes);
    held_.grow(task_.priors.tiles * kMatchTile);
    for (int64_t prior = 0; prior < held_.size(); ++prior) {
      const int64_t h = prior < task_.priors.count ? holder_of(holder_[prior]) : -1;
      held_[prior] = h < 0 ? T(0) : iou_with(task_, object(h), prior);
    }
  }

  // Finds the best priors that would accept g. Twice as many as are wanted have room, so that they are seldom sorted.
  void refill(WishList<T>& list, int64_t g) {
    const int64_t wanted = list.room == 0 ? 1 : std::min<int64_t>(4 * list.room, kMostWishes);
    const Object<T> a = object(g);
    int64_t count = 0;
    bool dropped = false;
    T least = 0, value[kMatchTile];  // what is not above it need not be looked at
    for (int64_t tile = 0; tile < task_.priors.tiles; ++tile) {
      const T* arrays = task_.priors.arrays + tile * 5 * kMatchTile;
      if (!touches(a.box, task_.priors.boxes[tile]) || !reaches(arrays, a, share_of(least))) continue;
      tile_iou(arrays, a, value);
      for (int64_t j = 0; j < kMatchTile; ++j) {
        if (!(value[j] > least) || value[j] < held_[tile * kMatchTile + j] ||
            !accepts(tile * kMatchTile + j, g, value[j]))
          continue;
        found_[count++] = {value[j], tile * kMatchTile + j};
        if (count < 2 * wanted && wanted > 1) continue;
        dropped |= count > wanted;
        least = keep_best(&count, wanted);
      }
    }
    dropped |= count > wanted || (wanted == 1 && count == 1);
    if (count > 0) keep_best(&count, wanted);
    remember(list, count, wanted);
    list.complete = !dropped;
  }

  // Leaves the `wanted` best of those found, in order, and returns the least of their values.
  T keep_best(int64_t* count, int64_t wanted) {
    std::sort(found_.data(), found_.data() + *count);
    *count = std::min(*count, wanted);
    return found_[*count - 1].value;
  }

  void remember(WishList<T>& list, int64_t count, int64_t wanted) {
    if (wanted > list.room) {
      list.forget();
      list.items = static_cast<Wish<T>*>(std::malloc(static_cast<size_t>(wanted) * sizeof(Wish<T>)));
      if (list.items == nullptr) throw std::bad_alloc();
      list.room = wanted;
    }
    if (count > 0)
      std::memcpy(static_cast<void*>(list.items), found_.data(), sizeof(Wish<T>) * static_cast<size_t>(count));
    list.count = count;
    list.next = 0;
  }

  const MatchTask<T>& task_;
  int64_t begin_, count_;  // its objects
  int64_t* holder_;        // gt_index of the image, [P], see held_by
  Scratch<WishList<T>> lists_;
  Scratch<T> held_;  // the IoU of each prior with its holder, 0 where it is free
  Scratch<Wish<T>> found_;
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
  Claims<T> claims(task, image);
  for (int64_t g = 0; g < count; ++g) {
    if (prior[g] < 0) continue;
    if (task.rule == ClaimRule::greedy)
      claims.settle(g, prior[g]);
    else
      claims.take(g, prior[g]);
  }
  for (int64_t g = 0; g < count; ++g)
    if (prior[g] >= 0 && claims.holds(g, prior[g])) learn(task, image, prior[g], g);
}

}  // namespace

void match_claims(const MatchTask<float>& task, int64_t image) { claim(task, image); }
void match_claims(const MatchTask<double>& task, int64_t image) { claim(task, image); }

}  // namespace ssd_ops::cpu::SSD_OPS_ISA
