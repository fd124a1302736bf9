#pragma once

#include <cstdint>

namespace cortex {

/// A unit fired `value` times in a bin of `bin_ms`.
struct Event {
  std::int32_t unit = 0;  ///< index into the session's unit list (the model's own if none declared)
  std::int32_t value = 0;  ///< spikes in the bin, at least 1
  std::int64_t bin = 0;    ///< window: from the window's start; stream: from the session's start

  friend bool operator==(const Event&, const Event&) = default;
};

}  // namespace cortex
