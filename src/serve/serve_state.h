#pragma once

#include <cortex/engine.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "core/clock.h"
#include "serve/codec_json.h"
#include "serve/mailbox.h"
#include "serve/server.h"
#include "telemetry/metrics.h"

namespace cortex {

struct ServeMetrics {
  std::map<std::pair<std::string, int>, std::int64_t> requests;  // endpoint, status
  std::map<std::string, std::int64_t> errors;                    // code
  LatencyHistogram request_latency;
  LatencyHistogram queue_wait;
  LatencyHistogram inference;
  std::int64_t connections_refused = 0;

  void count(const std::string& endpoint, int status) { ++requests[{endpoint, status}]; }
};

/// What the routes share. Touched by the network thread alone, save for the mailbox.
struct ServeState {
  explicit ServeState(const ServerOptions& o) : options(o) {}

  const ServerOptions options;
  Engine* engine = nullptr;  ///< null until the model is loaded
  bool draining = false;
  int connections = 0;
  TimeNs started_ns = RealClock::instance().now();
  ServeMetrics metrics;
  FrameParser parser;
  Mailbox mailbox;
  /// Runs a function on the network thread later.
  std::function<void(std::chrono::milliseconds, std::function<void()>)> after;
};

inline double to_ms(TimeNs ns) { return static_cast<double>(ns) / 1e6; }

/// The absolute deadline of a request that arrived at `arrived_ns` with `ms` to go.
inline TimeNs deadline_at(TimeNs arrived_ns, double ms) {
  return arrived_ns + static_cast<TimeNs>(ms * 1e6);
}

}  // namespace cortex
