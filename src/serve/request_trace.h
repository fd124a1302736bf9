#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string_view>

#include "core/clock.h"
#include "telemetry/spans.h"

namespace cortex {

class Tracer;

/// Follows one sampled request to its last byte; whoever drops it ends it.
class RequestTrace {
 public:
  RequestTrace(Tracer& tracer, RequestRecord begun) : record(std::move(begun)), tracer_(tracer) {}
  ~RequestTrace();
  RequestTrace(const RequestTrace&) = delete;
  RequestTrace& operator=(const RequestTrace&) = delete;

  RequestRecord record;

 private:
  Tracer& tracer_;
};

/// Null for a request that is not sampled, which then costs a comparison.
using TracePtr = std::unique_ptr<RequestTrace>;

inline void sent(const TracePtr& trace) {
  if (trace) trace->record.sent_ns = RealClock::instance().now();
}

/// Decides which requests are followed and names their spans. Network thread.
class Tracer {
 public:
  /// `ratio` of the requests that come without a traceparent are sampled; one that has it is
  /// sampled as it says. `capacity` records wait for the exporter at most.
  Tracer(bool enabled, double ratio, std::size_t capacity);

  /// `route` must be of static storage.
  TracePtr begin(std::string_view route, const std::optional<TraceContext>& parent,
                 TimeNs arrived_ns);
  TraceContext child_of(const TraceContext& parent);
  TraceContext fresh();

  bool enabled() const { return enabled_; }
  TraceQueue& queue() { return queue_; }
  const TraceQueue& queue() const { return queue_; }

 private:
  SpanId new_span();

  const bool enabled_;
  const double ratio_;
  std::mt19937_64 random_;
  TraceQueue queue_;
};

}  // namespace cortex
