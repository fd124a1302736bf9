#include "client/wait_for.h"

#include <poll.h>

#include <cerrno>
#include <ctime>

namespace cortex {

bool wait_for(int fd, short events, TimeNs until) {
  for (;;) {
    const TimeNs left = until - RealClock::instance().now();
    if (left < 0) return false;
    pollfd p{fd, events, 0};
    const timespec patience{left / 1'000'000'000, left % 1'000'000'000};
    const int ready = ::ppoll(&p, 1, &patience, nullptr);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return true;  // the next call says what is wrong
  }
}

}  // namespace cortex
