#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// W3C Trace Context (https://www.w3.org/TR/trace-context/), the `traceparent` header.
///
///     const auto parent = cortex::parse_traceparent(
///         "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
///     if (parent && parent->sampled) follow(*parent);
namespace cortex {

using TraceId = std::array<std::uint8_t, 16>;
using SpanId = std::array<std::uint8_t, 8>;

struct TraceContext {
  TraceId trace{};
  SpanId span{};
  bool sampled = false;

  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

/// Nothing where the header is not one that the standard allows; the request then has no parent.
std::optional<TraceContext> parse_traceparent(std::string_view header);

/// Version 00.
std::string format_traceparent(const TraceContext& context);

/// Lower-case hexadecimal, as OTLP/JSON writes ids.
std::string hex(const TraceId& id);
std::string hex(const SpanId& id);

}  // namespace cortex
