#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/weights.h"
#include "replay_report.h"

namespace cortex {

struct JitterOptions {
  std::int64_t steps = 100'000;
  int events = 32;             ///< every step, so that the spread is not the work's
  std::int64_t period_us = 0;  ///< 0: back to back
};

/// How steps and, interleaved with them on the same thread, idle spins of the same length spread.
struct JitterReport {
  std::int64_t steps = 0;
  LatencySummary step;  ///< on the compute thread: taken from the queue to the answer
  LatencySummary idle;  ///< on the compute thread, after each answer: a fixed number of clock reads
  LatencySummary answer;  ///< from submit() to the answer: the wake-up and what was queued with it
  std::int64_t spin_reads = 0;
  std::int64_t switches = 0;  ///< times the compute thread was preempted
  std::int64_t faults = 0;    ///< pages it faulted in
};

/// What the report does not know of its run.
struct JitterContext {
  std::string model;
  std::string precision;
  JitterOptions options;
  std::vector<RealtimeGrant> realtime;
};

/// The target: a step spreads at most this many times as far as nothing does.
inline constexpr double kJitterTarget = 1.5;

double spread_us(const LatencySummary& latency);
/// Spread of the steps over that of the idle spins; nothing where the latter is 0.
std::optional<double> jitter_ratio(const JitterReport& report);

/// Runs the steps as one session of `engine`, a stream engine on a model of `config`.
JitterReport measure_jitter(Engine& engine, const ModelConfig& config,
                            const JitterOptions& options);

std::string jitter_text(const JitterReport& report, const JitterContext& context);
/// One JSON object, without a newline.
std::string jitter_json(const JitterReport& report, const JitterContext& context);

}  // namespace cortex
