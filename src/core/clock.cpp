#include "core/clock.h"

#include <ctime>

namespace cortex {

TimeNs RealClock::now() const {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<TimeNs>(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

const RealClock& RealClock::instance() {
  static const RealClock clock;
  return clock;
}

}  // namespace cortex
