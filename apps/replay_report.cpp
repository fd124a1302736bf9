#include "replay_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>

#include "core/file.h"
#include "core/json_writer.h"
#include "realtime_report.h"

namespace cortex {
namespace {

constexpr double kRestFraction = 0.05;
constexpr double kRestQuantile = 0.95;
constexpr std::int64_t kLeastRows = 10;

double speed(const float* row, std::size_t dims) {
  double squares = 0;
  for (std::size_t d = 0; d < dims; ++d) squares += static_cast<double>(row[d]) * row[d];
  return std::sqrt(squares);
}

std::optional<RestSpeed> rest_speed(const ReplayTrace& trace, std::int64_t steps) {
  const std::size_t dims = trace.outputs;
  std::vector<double> true_speed(static_cast<std::size_t>(steps), -1);
  std::vector<double> sorted;
  for (std::int64_t s = 0; s < steps; ++s) {
    const double value = speed(trace.target_row(s), dims);
    if (trace.stepped.observed[static_cast<std::size_t>(s)] == 0 || !std::isfinite(value)) continue;
    true_speed[static_cast<std::size_t>(s)] = value;
    sorted.push_back(value);
  }
  if (sorted.empty()) return std::nullopt;
  const auto at = sorted.begin() + static_cast<std::ptrdiff_t>(
                                       kRestQuantile * static_cast<double>(sorted.size() - 1));
  std::nth_element(sorted.begin(), at, sorted.end());
  RestSpeed rest;
  rest.threshold = kRestFraction * *at;
  for (std::int64_t s = 0; s < steps; ++s) {
    const double value = true_speed[static_cast<std::size_t>(s)];
    if (value < 0 || value >= rest.threshold) continue;
    rest.truth += value;
    rest.decoded += speed(trace.decoded_row(s), dims);
    ++rest.steps;
  }
  if (rest.steps == 0) return std::nullopt;
  rest.truth /= static_cast<double>(rest.steps);
  rest.decoded /= static_cast<double>(rest.steps);
  return rest;
}

/// Nothing where too few rows or a constant target leave R² without meaning.
std::optional<R2> score(const ReplayTrace& trace, std::span<const std::uint8_t> mask) {
  R2 r2 = r2_score(trace.stepped.target, trace.decoded, mask, trace.outputs);
  if (r2.rows < kLeastRows || !std::isfinite(r2.mean)) return std::nullopt;
  return r2;
}

void write_latency(JsonWriter& json, const LatencySummary& latency) {
  json.begin_object();
  json.key("p50").value(latency.p50_us).key("p99").value(latency.p99_us);
  json.key("p999").value(latency.p999_us).key("max").value(latency.max_us);
  json.end_object();
}

std::string shared_unit(const DecoderInfo& decoder) {
  return decoder.output_units.empty() ? std::string() : decoder.output_units.front();
}

}  // namespace

LatencySummary summarize_latency(const std::vector<std::int64_t>& ns, std::int64_t count) {
  std::vector<std::int64_t> sorted(ns.begin(), ns.begin() + static_cast<std::ptrdiff_t>(count));
  if (sorted.empty()) return {};
  std::sort(sorted.begin(), sorted.end());
  const auto rank = [&](double q) {
    const double nearest = std::ceil(q * static_cast<double>(sorted.size()));
    const auto index = static_cast<std::size_t>(std::max(1.0, nearest)) - 1;
    return static_cast<double>(sorted[index]) * 1e-3;
  };
  return {rank(0.5), rank(0.99), rank(0.999), static_cast<double>(sorted.back()) * 1e-3};
}

ReplayReport make_report(const ReplayTrace& trace, double deadline_ms) {
  ReplayReport report;
  report.steps = trace.done.load(std::memory_order_acquire);
  report.deadline_ms = deadline_ms;
  report.latency = summarize_latency(trace.latency_ns, report.steps);
  report.wake_lag = summarize_latency(trace.wake_lag_ns, report.steps);
  for (std::size_t s = 0; s < static_cast<std::size_t>(report.steps); ++s) {
    const bool late = static_cast<double>(trace.latency_ns[s]) > deadline_ms * 1e6;
    report.missed += late || trace.withheld[s] != 0 ? 1 : 0;
    report.withheld += trace.withheld[s];
  }
  if (!trace.has_target()) return report;

  std::vector<std::uint8_t> mask(trace.scored.begin(),
                                 trace.scored.begin() + static_cast<std::ptrdiff_t>(report.steps));
  report.scored_steps = std::count(mask.begin(), mask.end(), 1);
  report.r2 = score(trace, mask);
  report.rest = rest_speed(trace, report.steps);
  const auto first = std::find(mask.begin(), mask.end(), 1);
  const auto second = static_cast<std::ptrdiff_t>(std::llround(1000.0 / trace.stepped.step_ms));
  if (mask.end() - first > second) std::fill(first + second, mask.end(), std::uint8_t{0});
  report.first_second = score(trace, mask);
  return report;
}

std::string report_text(const ReplayReport& report, const ReplayContext& context) {
  const DecoderInfo& decoder = context.decoder;
  const std::string unit = shared_unit(decoder);
  std::string text;
  const auto line = [&text](std::string_view label, const std::string& value) {
    text += fmt::format("{:<10} {}\n", label, value);
  };
  line("recording",
       fmt::format("{}: {} steps of {:g} ms as one session{}", context.recording, report.steps,
                   decoder.step_ms, context.interrupted ? ", ended early" : ""));
  line("model", fmt::format("{} {}, {}", decoder.model, decoder.precision, context.where));
  if (report.r2) {
    std::string dims;
    for (std::size_t d = 0; d < report.r2->per_dim.size(); ++d)
      dims += fmt::format("{}{} {:.3f}", d == 0 ? "" : ", ", decoder.output_names[d],
                          report.r2->per_dim[d]);
    line("R2", fmt::format("{:.4f} over {} scored steps of split {} ({})", report.r2->mean,
                           report.scored_steps, context.splits, dims));
  } else {
    line("R2", fmt::format("none: {} steps to score", report.scored_steps));
  }
  if (report.first_second)
    line("", fmt::format("{:.4f} in the first second of scored steps", report.first_second->mean));
  line("latency", fmt::format("p50 {:.3f}  p99 {:.3f}  p99.9 {:.3f}  max {:.3f} ms, last spike in "
                              "to velocity out",
                              report.latency.p50_us * 1e-3, report.latency.p99_us * 1e-3,
                              report.latency.p999_us * 1e-3, report.latency.max_us * 1e-3));
  if (context.paced)
    line("", fmt::format("of it p50 {:.3f}  p99 {:.3f}  max {:.3f} ms before the client woke",
                         report.wake_lag.p50_us * 1e-3, report.wake_lag.p99_us * 1e-3,
                         report.wake_lag.max_us * 1e-3));
  line("deadline",
       fmt::format("{:g} ms, missed {} of {} steps{}", report.deadline_ms, report.missed,
                   report.steps,
                   report.withheld == 0
                       ? ""
                       : fmt::format(" ({} answered without a velocity)", report.withheld)));
  if (report.rest)
    line("at rest", fmt::format("decoded speed {:.3g} {}, true {:.3g} {} ({} steps below {:.3g})",
                                report.rest->decoded, unit, report.rest->truth, unit,
                                report.rest->steps, report.rest->threshold));
  return text;
}

std::string report_json(const ReplayReport& report, const ReplayContext& context) {
  JsonWriter json;
  json.begin_object();
  json.key("recording").value(context.recording).key("split").value(context.splits);
  json.key("model").value(context.decoder.model);
  json.key("precision").value(context.decoder.precision);
  json.key("where").value(context.where).key("protocol").value("continuous");
  json.key("r2");
  if (report.r2) {
    json.value(report.r2->mean);
  } else {
    json.null();
  }
  json.key("r2_per_dim").begin_array();
  if (report.r2)
    for (const double dim : report.r2->per_dim) json.value(dim);
  json.end_array();
  json.key("first_second_r2");
  if (report.first_second) {
    json.value(report.first_second->mean);
  } else {
    json.null();
  }
  json.key("steps").value(report.steps).key("scored_steps").value(report.scored_steps);
  json.key("step_ms").value(context.decoder.step_ms);
  json.key("latency_us");
  write_latency(json, report.latency);
  json.key("wake_lag_us");
  if (context.paced) {
    write_latency(json, report.wake_lag);
  } else {
    json.null();
  }
  json.key("deadline_ms").value(report.deadline_ms);
  json.key("missed").value(report.missed).key("withheld").value(report.withheld);
  json.key("rest_speed");
  if (report.rest) {
    json.begin_object().key("decoded").value(report.rest->decoded);
    json.key("true").value(report.rest->truth).key("threshold").value(report.rest->threshold);
    json.key("unit").value(shared_unit(context.decoder)).key("steps").value(report.rest->steps);
    json.end_object();
  } else {
    json.null();
  }
  write_realtime(json, context.realtime);
  json.key("interrupted").value(context.interrupted);
  json.end_object();
  return json.text();
}

Result<void> write_csv(const std::string& path, const ReplayTrace& trace,
                       const DecoderInfo& decoder) {
  std::string text = "step,time_s,trial,scored";
  for (const std::string& name : decoder.output_names) text += "," + name;
  if (trace.has_target())
    for (const std::string& name : decoder.output_names) text += ",true_" + name;
  text += ",latency_us,withheld\n";
  const auto& stepped = trace.stepped;
  const std::int64_t done = trace.done.load(std::memory_order_acquire);
  for (std::int64_t s = 0; s < done; ++s) {
    const auto row = static_cast<std::size_t>(s);
    const double end_s = stepped.origin_s + static_cast<double>(s + 1) * stepped.step_ms * 1e-3;
    text += fmt::format("{},{:.6f},{},{}", s, end_s, stepped.trial[row], trace.scored[row]);
    for (std::size_t d = 0; d < trace.outputs; ++d)
      text += fmt::format(",{:.9g}", trace.decoded_row(s)[d]);
    if (trace.has_target())
      for (std::size_t d = 0; d < trace.outputs; ++d)
        text += fmt::format(",{:.9g}", trace.target_row(s)[d]);
    text += fmt::format(",{:.3f},{}\n", static_cast<double>(trace.latency_ns[row]) * 1e-3,
                        trace.withheld[row]);
  }
  return write_file_atomic(path, std::as_bytes(std::span(text)));
}

Result<void> write_events_csv(const std::string& path, const ReplayTrace& trace) {
  std::string text = "step,unit,value,bin\n";
  const std::int64_t done = trace.done.load(std::memory_order_acquire);
  for (std::int64_t s = 0; s < done; ++s)
    for (const Event& e : trace.stepped.step_events(s))
      text += fmt::format("{},{},{},{}\n", s, e.unit, e.value, e.bin);
  return write_file_atomic(path, std::as_bytes(std::span(text)));
}

}  // namespace cortex
