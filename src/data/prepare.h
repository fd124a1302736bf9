#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// What of a recording is decoded from what, and scored where.
struct PrepareOptions {
  std::string target = "auto";  ///< see data/target.h
  std::string units = "all";    ///< see data/unit_filter.h
  std::string split = {};       ///< see data/split.h
};

/// Makes a lab's own file fit for training, evaluation and replay, and says in a sentence each what
/// was chosen and which defaults stand in for what the file lacks. Errors as the three headers say.
Result<std::vector<std::string>> prepare(Recording& recording, const PrepareOptions& options);

}  // namespace cortex
