// Test only: warp collectives. The last lane to come computes the results of all and goes on; the others become ready.
#include <algorithm>

#include "scheduler.h"

namespace emu {
namespace {

// A shuffle's source lane, or the lane itself if the source is outside of its segment.
int source_lane(const Fiber& fiber, int lane) {
  const int first = lane & ~(fiber.width - 1);
  const int last = first + fiber.width - 1;
  const int by = fiber.argument;
  switch (fiber.kind) {
    case Warp::kShfl: return first + (by & (fiber.width - 1));
    case Warp::kShflUp: return lane - by < first ? lane : lane - by;
    case Warp::kShflDown: return lane + by > last ? lane : lane + by;
    default: return (lane ^ by) < 0 || (lane ^ by) > last ? lane : lane ^ by;
  }
}

uint64_t shuffled(const Fiber* warp, unsigned mask, int lane) {
  const int from = source_lane(warp[lane], lane);
  if ((mask >> from & 1u) != 0) return warp[from].value;
  return 0x9e3779b97f4a7c15ull * (seed_from_environment() + 1) ^ static_cast<uint64_t>(lane);  // undefined on a GPU
}

template <typename T, typename Fold>
uint64_t folded(const Fiber* warp, unsigned mask, Fold fold) {
  T total = static_cast<T>(warp[__builtin_ctz(mask)].value);
  for (unsigned rest = mask & (mask - 1); rest != 0; rest &= rest - 1) {
    total = fold(total, static_cast<T>(warp[__builtin_ctz(rest)].value));
  }
  return static_cast<uint32_t>(total);
}

unsigned equal_lanes(const Fiber* warp, unsigned mask, uint64_t value) {
  unsigned equal = 0;
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    if (warp[lane].value == value) equal |= 1u << lane;
  }
  return equal;
}

// The result of a collective that gives the same to all lanes.
uint64_t common_result(const Fiber* warp, unsigned mask, Warp kind) {
  using U = uint32_t;
  switch (kind) {
    case Warp::kBallot: return equal_lanes(warp, mask, 1);
    case Warp::kAll: return equal_lanes(warp, mask, 1) == mask;
    case Warp::kAny: return equal_lanes(warp, mask, 1) != 0;
    case Warp::kMatchAll: return equal_lanes(warp, mask, warp[__builtin_ctz(mask)].value) == mask ? mask : 0;
    case Warp::kMinSigned: return folded<int>(warp, mask, [](int a, int b) { return std::min(a, b); });
    case Warp::kMaxSigned: return folded<int>(warp, mask, [](int a, int b) { return std::max(a, b); });
    case Warp::kAddSigned:
    case Warp::kAdd: return folded<U>(warp, mask, [](U a, U b) { return a + b; });
    case Warp::kMin: return folded<U>(warp, mask, [](U a, U b) { return std::min(a, b); });
    case Warp::kMax: return folded<U>(warp, mask, [](U a, U b) { return std::max(a, b); });
    case Warp::kAnd: return folded<U>(warp, mask, [](U a, U b) { return a & b; });
    case Warp::kOr: return folded<U>(warp, mask, [](U a, U b) { return a | b; });
    case Warp::kXor: return folded<U>(warp, mask, [](U a, U b) { return a ^ b; });
    default: return 0;
  }
}

void compute(Fiber* warp, unsigned mask, Warp kind) {
  const bool shuffle = kind >= Warp::kShfl && kind <= Warp::kShflXor;
  const uint64_t common = common_result(warp, mask, kind);
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    warp[lane].result = shuffle                   ? shuffled(warp, mask, lane)
                        : kind == Warp::kMatchAny ? equal_lanes(warp, mask, warp[lane].value)
                                                  : common;
  }
}

bool together(const Fiber& a, const Fiber& b) {
  return a.mask == b.mask && a.kind == b.kind && a.where.line == b.where.line;
}

}  // namespace

uint64_t collective(Warp kind, unsigned mask, uint64_t value, int argument, int width, Where where) {
  const int self = block.running;
  const int lane = self % 32;
  const int first = self - lane;
  Fiber* warp = block.fibers + first;
  Fiber& fiber = warp[lane];
  fiber.state = State::kWarp;
  fiber.where = where;
  fiber.kind = kind;
  fiber.mask = mask;
  fiber.value = value;
  fiber.argument = argument;
  fiber.width = width;
  if ((mask >> lane & 1u) == 0) fault("%s: mask 0x%08x leaves out lane %d, which calls", place(where), mask, lane);
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fault("%s: width %d is no power of 2 up to 32", place(where), width);
  unsigned& arrived = block.arrived[first / 32];
  arrived |= 1u << lane;
  bool complete = (arrived & mask) == mask;
  for (unsigned rest = mask; complete && rest != 0; rest &= rest - 1)
    complete = together(fiber, warp[__builtin_ctz(rest)]);
  if (!complete) {
    wait_for_others();
    return fiber.result;
  }
  compute(warp, mask, kind);
  arrived &= ~mask;
  if (kind == Warp::kSync) note_syncwarp(mask);
  for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
    if (__builtin_ctz(rest) != lane) make_ready(first + __builtin_ctz(rest));
  }
  fiber.state = State::kReady;
  return fiber.result;
}

}  // namespace emu
