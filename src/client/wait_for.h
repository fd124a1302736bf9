#pragma once

#include "core/clock.h"

namespace cortex {

/// Waits until poll(2) reports one of `events` on a descriptor; false: not by `until`.
bool wait_for(int fd, short events, TimeNs until);

}  // namespace cortex
