#pragma once

#include <cortex/realtime.h>
#include <cortex/result.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "replay_trace.h"

namespace cortex {

struct LatencySummary {
  double p50_us = 0;
  double p99_us = 0;
  double p999_us = 0;
  double max_us = 0;
};

/// Exact quantiles (nearest rank) of the first `count` durations.
LatencySummary summarize_latency(const std::vector<std::int64_t>& ns, std::int64_t count);

/// Mean speed where the hand is at rest: observed steps whose true speed is below a threshold.
struct RestSpeed {
  double decoded = 0;
  double truth = 0;
  double threshold = 0;  ///< 5% of the 95th percentile of the true speed
  std::int64_t steps = 0;
};

/// Scores of what a trace holds so far.
struct ReplayReport {
  std::int64_t steps = 0;
  std::int64_t scored_steps = 0;
  std::int64_t missed = 0;    ///< answers later than the deadline
  std::int64_t withheld = 0;  ///< answers without a velocity, among the missed
  std::optional<R2> r2;
  std::optional<R2> first_second;  ///< the first second of scored steps
  std::optional<RestSpeed> rest;
  LatencySummary latency;
  LatencySummary wake_lag;
  double deadline_ms = 0;
};

ReplayReport make_report(const ReplayTrace& trace, double deadline_ms);

/// What a report does not know of its run.
struct ReplayContext {
  std::string recording;
  std::string splits;
  std::string where;  ///< "in process" or the server's URL
  bool paced = false;
  bool interrupted = false;
  DecoderInfo decoder;
  std::vector<RealtimeGrant> realtime = {};  ///< empty where it was not asked for
};

std::string report_text(const ReplayReport& report, const ReplayContext& context);
/// One JSON object, without a newline.
std::string report_json(const ReplayReport& report, const ReplayContext& context);

/// One row a step: step, time_s, trial, scored, outputs, true_ outputs, latency_us, withheld.
/// Values round-trip.
Result<void> write_csv(const std::string& path, const ReplayTrace& trace,
                       const DecoderInfo& decoder);
/// The events that were sent: step, index of the model's unit, spikes, bin from the session's
/// start.
Result<void> write_events_csv(const std::string& path, const ReplayTrace& trace);

}  // namespace cortex
