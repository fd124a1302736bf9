#pragma once

#include "core/clock.h"

namespace cortex {

inline double to_ms(TimeNs ns) { return static_cast<double>(ns) / 1e6; }

/// The absolute deadline of a request that arrived at `arrived_ns` with `ms` to go.
inline TimeNs deadline_at(TimeNs arrived_ns, double ms) {
  return arrived_ns + static_cast<TimeNs>(ms * 1e6);
}

}  // namespace cortex
