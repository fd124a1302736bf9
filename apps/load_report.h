#pragma once

#include <map>
#include <optional>
#include <string>

#include "load_options.h"
#include "load_tally.h"
#include "load_verify.h"
#include "load_windows.h"

namespace cortex {

/// What a load came to.
struct LoadReport {
  LoadOptions options;
  LoadFacts facts;
  double rate_hz = 0;  ///< offered: of one session, or of all windows; 0: as fast as answers come
  double seconds = 0;  ///< counted
  int ports = 0;       ///< sessions or connections that were open
  std::map<std::string, int> refused = {};  ///< sessions at the door, by code
  std::string refused_because = {};
  int lost_ports = 0;
  std::string lost_because = {};
  LoadTally tally = {};
  std::optional<LoadTally> echo = {};
  std::optional<VerifyReport> verify = {};
  std::optional<WindowCheck> check = {};

  /// Whether any request had an answer or one of the refusals that an overloaded server owes.
  bool was_served() const;
  double per_second(std::int64_t count) const {
    return seconds > 0 ? static_cast<double>(count) / seconds : 0;
  }
  double miss_rate() const {
    if (tally.offered == 0) return 0;
    return 1 - static_cast<double>(tally.in_time) / static_cast<double>(tally.offered);
  }
};

std::string load_text(const LoadReport& report);
/// One JSON object, without a newline.
std::string load_json(const LoadReport& report);

}  // namespace cortex
