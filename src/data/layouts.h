#pragma once

#include <optional>
#include <span>
#include <string>

#include "data/recording.h"

namespace cortex {

/// How a public data set lays its recordings out, and how its benchmark cuts them.
struct Layout {
  const char* name;   ///< e.g. "mc_maze_small"
  const char* title;  ///< as its authors write it
  const char*
      target;        ///< what is decoded: the end of an HDF5 path; a group of series counts as one
  const char* mask;  ///< a series that is 0 where nothing is scored; empty: none
  double lag_ms;     ///< how much later than spikes the benchmark scores behaviour
  /// The target's time minus the end of a 20 ms step, where the data set says; else its centre.
  std::optional<double> target_offset_ms;
  const char* align;      ///< column of trials that the benchmark aligns to; empty: none
  double align_from_ms;   ///< start of the benchmark's span around it
  double align_to_ms;     ///< end
  bool held_out_units;    ///< its training files mark units that the benchmark holds out
  const char* tested_on;  ///< genuine files that tests read; empty: untested
};

/// NLB's MC_Maze and its Large, Medium and Small, MC_RTT and Area2_Bump (parameters from nlb_tools'
/// make_tensors.py), FALCON's M1 and M2 (from falcon_challenge's dataloaders.py).
std::span<const Layout> layouts();

/// The layout that subject, session and series of a file speak for; nullptr: none of the known.
const Layout* find_layout(const Recording& recording);

}  // namespace cortex
