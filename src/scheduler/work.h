#pragma once

#include <cstdint>

#include "core/clock.h"

namespace cortex {

/// A session at the door, and what its steps have used since.
struct StepFlow {
  std::uint32_t tenant = 0;
  double rate_hz = 0;           ///< reserved; 0: its steps run in time that others leave
  TimeNs next_arrival = 0;      ///< of a step that keeps to the rate
  std::int64_t fell = 0;        ///< when it fell behind, as a count; 0: it is not behind
  bool tells_overload = false;  ///< of one behind: its deadline was no shorter than its period
};

/// What the scheduler knows of a request that is ready to run.
struct Work {
  std::uint64_t key = 0;  ///< the owner's name for it
  TimeNs arrived = 0;
  TimeNs deadline = kNever;   ///< when its answer was asked for
  TimeNs due = kNever;        ///< what it is ordered by; the deadline, where it is promised
  std::uint64_t order = 0;    ///< of arrival; breaks ties, so equal times are served in turn
  TimeNs interval = 0;        ///< what has lost its promise is due this much later
  std::int32_t keys = 0;      ///< events of one forward
  std::int32_t forwards = 1;  ///< that it needs, one after another
  std::uint32_t tenant = 0;
  StepFlow* flow = nullptr;  ///< of a step whose session has reserved a rate
  bool window = false;       ///< a stateless request
  bool promised = false;     ///< planned to be in time
  bool sheddable = false;    ///< given up once it is predicted to miss; else it is computed late
  bool fair_notice = false;  ///< of a step: its deadline leaves it about a period
};

}  // namespace cortex
