#pragma once

#include <cortex/engine.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/clock.h"
#include "serve/api_error.h"
#include "serve/auth.h"
#include "serve/codec_binary.h"
#include "serve/codec_json.h"
#include "serve/codec_oip.h"
#include "serve/mailbox.h"
#include "serve/model_registry.h"
#include "serve/rate_limiter.h"
#include "serve/request_trace.h"
#include "serve/sequence_table.h"
#include "serve/serve_metrics.h"
#include "serve/server.h"
#include "serve/transport.h"
#include "serve/units_of_time.h"

namespace cortex {

/// What the routes share. Touched by the network thread alone, save for the mailbox.
struct ServeState {
  explicit ServeState(const ServerOptions& o)
      : options(o),
        tracer(!o.otlp_url.empty(), o.trace_ratio, kTraceRecords),
        models(o.make_engine, o.repository, tracer, mailbox),
        rates(o.max_rate) {}

  /// The engine of a request: 503 while it drains or loads, 404 where there is none of that name.
  Result<ModelRef> model(std::string_view name) const;
  /// Why the server as a whole takes no requests yet, or no more.
  std::optional<ApiError> not_ready() const;

  const ServerOptions options;
  bool draining = false;
  int connections = 0;
  TimeNs started_ns = RealClock::instance().now();
  ServeMetrics metrics;
  FrameParser parser;
  BinaryParser binary;
  OipParser oip;
  Mailbox mailbox;
  Tracer tracer;
  ModelRegistry models;
  RateLimiter rates;
  SequenceTable sequences;
  std::optional<KeyFile> keys;
  /// A request has gone to an engine: its answer may be worth staying awake for.
  void expect_answer() {
    if (options.busy_poll_us > 0)
      awake_until_ns = RealClock::instance().now() + TimeNs{1000} * options.busy_poll_us;
  }
  TimeNs awake_until_ns = 0;
  /// Runs a function on the network thread later.
  std::function<void(std::chrono::milliseconds, std::function<void()>)> after;
  /// What the exporter of traces has lost, beside what did not fit into its queue.
  std::function<std::int64_t()> traces_lost;

 private:
  static constexpr std::size_t kTraceRecords = 4096;
};

/// The address of a client where the server asks for no keys, else the tenant.
inline std::string_view client_of(const HttpRequest& request) {
  return request.caller.tenant.empty() ? std::string_view(request.peer.address)
                                       : std::string_view(request.caller.tenant);
}

/// 429 of a client that sends more than --max-rate.
Error too_fast(double max_rate);

/// An error of open_session() in the words of the protocol, naming the flag whose limit it met.
Error explain_refusal(Error error);

}  // namespace cortex
