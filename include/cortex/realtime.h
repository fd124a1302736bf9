#pragma once

#include <string>

namespace cortex {

/// One thing that real-time mode asked the system for. A refusal is never fatal.
struct RealtimeGrant {
  std::string what;  ///< memory_lock, prefault, core, scheduler, stack or timer_slack
  bool granted = false;
  std::string detail;  ///< what was granted, or why not and what would change that
};

}  // namespace cortex
