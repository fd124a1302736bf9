#pragma once

#include <cstdint>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// A planar vector.
struct Vec2 {
  double x = 0;
  double y = 0;
};

/// What the hand does and what the animal intends, every millisecond from session time 0.
struct Movement {
  std::vector<Vec2> position_mm;
  std::vector<Vec2> velocity_mm_s;
  /// Direction and distance (over 100 mm) of the reach to come, from the target's appearance until
  /// the hand moves; zero elsewhere.
  std::vector<Vec2> intention;
  std::vector<Trial> trials;

  std::size_t samples() const { return position_mm.size(); }
};

/// Delayed reaches between targets of a workspace of 110 mm radius: from wherever the hand rests to
/// a target in one of 16 directions, minimum-jerk along a straight or, in one reach of three, a
/// bowed path, with rest of random length between trials and tremor throughout.
Movement simulate_movement(std::uint64_t session_seed, double seconds, double val_fraction);

}  // namespace cortex
