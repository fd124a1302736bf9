#pragma once

#include <cstdint>

#include "core/clock.h"

namespace cortex {

/// What the scheduler knows of a request that is ready to run.
struct Work {
  std::uint64_t key = 0;      ///< the owner's name for it
  TimeNs deadline = kNever;   ///< when its answer was asked for
  TimeNs due = kNever;        ///< what it is ordered by; the deadline, where it is promised
  std::uint64_t order = 0;    ///< of arrival; breaks ties, so equal times are served in turn
  TimeNs interval = 0;        ///< a step whose deadline is lost is due this much later
  std::int32_t keys = 0;      ///< events of one forward
  std::int32_t forwards = 1;  ///< that it needs, one after another
  std::uint32_t tenant = 0;
  bool window = false;     ///< a stateless request
  bool promised = false;   ///< planned to be in time
  bool sheddable = false;  ///< given up once it is predicted to miss; else it is computed late
};

}  // namespace cortex
