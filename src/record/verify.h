#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "record/flight_log.h"

namespace cortex::record {

/// Where a replay answers differently than was recorded.
struct Difference {
  std::int64_t sequence = 0;
  std::string what;
};

/// How a session compares with its replay. Every step is in one of the counts.
struct SessionVerdict {
  SessionId session = 0;
  std::int64_t steps = 0;
  std::int64_t equal = 0;                     ///< the same bits
  std::int64_t withheld = 0;                  ///< computed then, but no output was handed over
  std::int64_t unanswered = 0;                ///< the log does not hold the answer
  std::int64_t unknown = 0;                   ///< depends on steps that are not in the log
  std::optional<Difference> difference = {};  ///< the first; nothing is compared after it
};

/// Replays a session through `engine`, which serves the model of the log, and compares every output
/// bit for bit. Errors: the session cannot be opened; corrupt_data: a step that the engine refuses.
Result<SessionVerdict> verify(const FlightLog& log, const RecordedSession& session, Engine& engine);

}  // namespace cortex::record
