#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "telemetry/spans.h"

namespace cortex {

/// An ExportTraceServiceRequest of OTLP/HTTP JSON
/// (https://opentelemetry.io/docs/specs/otlp/#otlphttp). A request becomes a server span with
/// children ingress, queue, batch, compute and egress, as far as it got; a batch a span of its own
/// that links to the requests in it, as their batch spans link to it.
///
/// `epoch_ns`: what to add to CLOCK_MONOTONIC for the time since 1970. `new_span` makes up ids.
std::string otlp_json(std::span<const TraceRecord> records, std::int64_t epoch_ns,
                      const std::function<SpanId()>& new_span);

}  // namespace cortex
