#include "serve/metrics_page.h"

#include <fmt/format.h>

#include <vector>

#include "core/log.h"
#include "telemetry/catalog.h"

namespace cortex {
namespace {

namespace m = catalog;

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

void write_server(PrometheusText& page, const ServeState& state) {
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
  gauge(m::kSequences, static_cast<double>(state.sequences.size()));
  gauge(m::kReady, state.not_ready() ? 0 : 1);
  gauge(m::kUptime, to_ms(RealClock::instance().now() - state.started_ns) * 1e-3);
  if (state.tracer.enabled())
    counter(m::kTracesDropped,
            state.tracer.queue().dropped() + (state.traces_lost ? state.traces_lost() : 0));
  counter(m::kLogLost, log::lost());
  if (!state.options.record_stats) return;
  const RecordStats recorded = state.options.record_stats();
  counter(m::kRecorded, recorded.written);
  counter(m::kRecordLost, recorded.lost);
  counter(m::kRecordBytes, recorded.bytes);
  gauge(m::kRecordFailing, recorded.failing);
}

/// A model as its engine counts it now. Families are written one after the other, so that each has
/// one header over all models.
struct Sample {
  std::string labels;
  EngineStats stats;
  const Engine* engine;
  double utilisation = 0;
};

void write_models(PrometheusText& page, const std::vector<Sample>& samples) {
  const auto counter = [&](const m::Metric& metric, std::int64_t EngineStats::*value) {
    for (const Sample& s : samples)
      page.counter(metric.name, metric.help, static_cast<double>(s.stats.*value), s.labels);
  };
  const auto gauge = [&](const m::Metric& metric, std::int64_t EngineStats::*value) {
    for (const Sample& s : samples)
      page.gauge(metric.name, metric.help, static_cast<double>(s.stats.*value), s.labels);
  };
  const auto rate = [&](const m::Metric& metric, double EngineStats::*value, double scale) {
    for (const Sample& s : samples)
      page.gauge(metric.name, metric.help, s.stats.*value * scale, s.labels);
  };
  counter(m::kBatches, &EngineStats::batches);
  counter(m::kSteps, &EngineStats::steps);
  counter(m::kWindows, &EngineStats::windows);
  counter(m::kLate, &EngineStats::late);
  for (const Sample& s : samples)
    for (const auto& [kind, n] : {std::pair{"predicted", s.stats.predicted_misses},
                                  {"shed", s.stats.shed},
                                  {"withheld", s.stats.withheld}})
      page.counter(m::kRefused.name, m::kRefused.help, static_cast<double>(n),
                   fmt::format("{},kind=\"{}\"", s.labels, kind));
  counter(m::kCancelled, &EngineStats::cancelled);
  counter(m::kNotFinite, &EngineStats::not_finite);
  counter(m::kFailedBatches, &EngineStats::failed_batches);
  counter(m::kRecoveries, &EngineStats::recoveries);
  for (const Sample& s : samples)
    page.gauge(m::kFellBack.name, m::kFellBack.help, s.stats.fell_back ? 1 : 0, s.labels);
  for (const Sample& s : samples)
    if (s.stats.device_memory_used_bytes >= 0)
      page.gauge(m::kGpuMemory.name, m::kGpuMemory.help,
                 static_cast<double>(s.stats.device_memory_used_bytes), s.labels);
  for (const Sample& s : samples)
    if (s.stats.device_memory_used_bytes >= 0)
      page.gauge(m::kGpuUtilisation.name, m::kGpuUtilisation.help, 100 * s.utilisation, s.labels);
  for (const Sample& s : samples)
    page.counter(m::kComputeSeconds.name, m::kComputeSeconds.help,
                 static_cast<double>(s.stats.busy_ns) * 1e-9, s.labels);
  for (const Sample& s : samples)
    page.histogram(m::kBatchSize.name, m::kBatchSize.help, s.stats.batch_sizes,
                   static_cast<double>(s.stats.batch_rows), s.labels);
  gauge(m::kQueueDepth, &EngineStats::queue_depth);
  gauge(m::kSessions, &EngineStats::sessions);
  gauge(m::kPagesUsed, &EngineStats::pages_used);
  gauge(m::kPagesTotal, &EngineStats::pages_total);
  gauge(m::kCacheBytes, &EngineStats::cache_bytes);
  for (const Sample& s : samples) {
    const std::int64_t steps = s.stats.cache_hits + s.stats.cache_misses;
    if (steps > 0)
      page.gauge(m::kHitRate.name, m::kHitRate.help,
                 static_cast<double>(s.stats.cache_hits) / static_cast<double>(steps), s.labels);
  }
  rate(m::kPredictedBatch, &EngineStats::predicted_batch_us, 1e-6);
  rate(m::kCapacity, &EngineStats::capacity_hz, 1);
  rate(m::kReserved, &EngineStats::reserved_hz, 1);
  rate(m::kBehind, &EngineStats::behind_hz, 1);
  for (const Sample& s : samples)
    for (const RealtimeGrant& grant : s.engine->realtime())
      page.gauge(m::kRealtime.name, m::kRealtime.help, grant.granted ? 1 : 0,
                 fmt::format("{},what=\"{}\"", s.labels, label_value(grant.what)));
  for (const Sample& s : samples) {
    const ModelInfo& model = s.engine->model();
    page.gauge(m::kModelInfo.name, m::kModelInfo.help, 1,
               fmt::format("{},kind=\"{}\",preset=\"{}\",precision=\"{}\",digest=\"{}\"", s.labels,
                           label_value(model.kind), label_value(model.preset),
                           label_value(model.precision), label_value(model.digest)));
  }
}

}  // namespace

std::string metrics_page(const ServeState& state) {
  PrometheusText page;
  write_server(page, state);
  std::vector<Sample> samples;
  for (const ModelRef& model : state.models.alive()) {
    samples.push_back(
        {fmt::format("model=\"{}\",version=\"{}\"", label_value(model->name), model->version),
         model->engine->stats(), model->engine, model->utilisation.share()});
    samples.back().stats.withheld += model->withheld;
    samples.back().stats.late += model->late;
  }
  write_models(page, samples);
  return page.text();
}

}  // namespace cortex
