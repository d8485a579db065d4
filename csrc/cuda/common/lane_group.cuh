// How the classes of one row of logits are divided among the lanes of a warp.
#pragma once

#include <cstdint>

namespace ssd_ops {

// A group of `lanes` lanes has a row, each lane every lanes-th class: at most `per_lane` of them, or any number if that
// is 0.
template <int lanes, int per_lane>
struct LaneGroup {
  static constexpr int kLanes = lanes, kPerLane = per_lane;
};

// Calls f with the LaneGroup for rows of `num_classes` classes.
template <typename F>
auto dispatch_lane_group(int64_t num_classes, F&& f) {
  if (num_classes <= 8) return f(LaneGroup<4, 2>());
  if (num_classes <= 24) return f(LaneGroup<8, 3>());
  if (num_classes <= 96) return f(LaneGroup<16, 6>());
  if (num_classes <= 256) return f(LaneGroup<32, 8>());
  return f(LaneGroup<32, 0>());
}

}  // namespace ssd_ops
