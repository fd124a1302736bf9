#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "load_events.h"
#include "load_sessions.h"

namespace cortex {

struct VerifyReport {
  std::int64_t streams = 0;
  std::int64_t steps = 0;     ///< whose outputs were compared
  std::int64_t withheld = 0;  ///< that had none
  std::int64_t wrong = 0;     ///< other bits than the replay's
  std::string first_wrong;    ///< session, step and both outputs
};

/// Runs every recorded stream again from its events, in this process, and compares the bits.
/// Throws Exception: the model file has another digest than `facts`, or cannot be read.
VerifyReport verify_sessions(const std::string& model, const LoadFacts& facts, LoadEvents& events,
                             const std::vector<SessionRecord>& records);

/// Outputs of LoadEvents's windows as the model decodes each alone, [kWindows, outputs].
std::vector<float> expected_windows(const std::string& model, const LoadFacts& facts,
                                    LoadEvents& events);

}  // namespace cortex
