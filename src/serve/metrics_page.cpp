#include "serve/metrics_page.h"

#include <fmt/format.h>

#include "telemetry/catalog.h"

namespace cortex {
namespace {

std::string label_value(const std::string& raw) {
  std::string out;
  for (const char c : raw) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
      continue;
    }
    out += c;
  }
  return out;
}

}  // namespace

std::string metrics_page(const ServeState& state) {
  namespace m = catalog;
  PrometheusText page;
  const auto counter = [&page](const m::Metric& metric, std::int64_t value) {
    page.counter(metric.name, metric.help, static_cast<double>(value));
  };
  const auto gauge = [&page](const m::Metric& metric, double value) {
    page.gauge(metric.name, metric.help, value);
  };
  const ServeMetrics& own = state.metrics;
  for (const auto& [key, n] : own.requests)
    page.counter(m::kRequests.name, m::kRequests.help, static_cast<double>(n),
                 fmt::format("endpoint=\"{}\",status=\"{}\"", key.first, key.second));
  for (const auto& [code, n] : own.errors)
    page.counter(m::kErrors.name, m::kErrors.help, static_cast<double>(n),
                 fmt::format("error_type=\"{}\"", code));
  page.histogram(m::kRequestLatency.name, m::kRequestLatency.help, own.request_latency);
  page.histogram(m::kQueueWait.name, m::kQueueWait.help, own.queue_wait);
  page.histogram(m::kInferenceLatency.name, m::kInferenceLatency.help, own.inference);
  gauge(m::kConnections, state.connections);
  counter(m::kConnectionsRefused, own.connections_refused);
  gauge(m::kReady, state.engine != nullptr && !state.draining ? 1 : 0);
  gauge(m::kUptime, to_ms(RealClock::instance().now() - state.started_ns) * 1e-3);
  if (state.engine == nullptr) return page.text();

  const EngineStats stats = state.engine->stats();
  const ModelInfo& model = state.engine->model();
  counter(m::kBatches, stats.batches);
  counter(m::kSteps, stats.steps);
  counter(m::kWindows, stats.windows);
  counter(m::kLate, stats.late);
  counter(m::kRefused, stats.refused);
  if (stats.batches > 0)
    gauge(m::kBatchSize,
          static_cast<double>(stats.steps + stats.windows) / static_cast<double>(stats.batches));
  gauge(m::kQueueDepth, static_cast<double>(stats.queue_depth));
  gauge(m::kSessions, static_cast<double>(stats.sessions));
  gauge(m::kPagesUsed, static_cast<double>(stats.pages_used));
  gauge(m::kPagesTotal, static_cast<double>(stats.pages_total));
  gauge(m::kCacheBytes, static_cast<double>(stats.cache_bytes));
  for (const RealtimeGrant& grant : state.engine->realtime())
    page.gauge(m::kRealtime.name, m::kRealtime.help, grant.granted ? 1 : 0,
               fmt::format("what=\"{}\"", label_value(grant.what)));
  page.gauge(m::kModelInfo.name, m::kModelInfo.help, 1,
             fmt::format("kind=\"{}\",preset=\"{}\",precision=\"{}\",digest=\"{}\"",
                         label_value(model.kind), label_value(model.preset),
                         label_value(model.precision), label_value(model.digest)));
  return page.text();
}

}  // namespace cortex
