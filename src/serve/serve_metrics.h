#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "telemetry/metrics.h"

namespace cortex {

/// What the network thread counts.
struct ServeMetrics {
  std::map<std::pair<std::string_view, int>, std::int64_t> requests;  // endpoint, status
  std::map<std::string, std::int64_t, std::less<>> errors;            // code
  LatencyHistogram request_latency;
  LatencyHistogram queue_wait;
  LatencyHistogram inference;
  std::int64_t connections_refused = 0;

  /// `endpoint` must be of static storage.
  void count(std::string_view endpoint, int status) { ++requests[{endpoint, status}]; }
  void failed(std::string_view endpoint, int status, std::string_view code) {
    count(endpoint, status);
    const auto found = errors.find(code);
    if (found != errors.end())
      ++found->second;
    else
      errors.emplace(code, 1);
  }
};

}  // namespace cortex
