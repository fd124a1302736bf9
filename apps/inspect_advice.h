#pragma once

#include <string>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// How to train on a recording.
struct TrainAdvice {
  std::string layout;              ///< of a known data set, e.g. "mc_maze_small"; else empty
  std::vector<std::string> notes;  ///< what was chosen, and defaults for what the file lacks
  std::string command;             ///< `cortex-train train ...`; empty: `why_not` says why
  std::string why_not;
};

TrainAdvice advise(Recording recording);

}  // namespace cortex
