#pragma once

#include <cortex/engine.h>

#include <vector>

#include "cache/event_store.h"
#include "model/config.h"

namespace cortex {

/// Declared unit -> row of the model's table, matched by id. invalid_argument lists the ids that do
/// not match.
Result<std::vector<std::int32_t>> match_units(const ModelConfig& config,
                                              const SessionOptions& options);

struct StepEvents {
  std::span<const Event> events;  ///< sorted by (bin, unit), merged
  std::int64_t dropped = 0;       ///< for lying outside the step
};

/// Checks a step's events and copies them, with model rows for units, into a room of `store`, which
/// holds them no longer than to its next room.
Result<StepEvents> take_step_events(const ModelConfig& config, const SessionOptions& options,
                                    const std::vector<std::int32_t>& unit_rows, std::int64_t step,
                                    std::span<const Event> events, EventStore& store);

/// Checks the events of a stateless request against a model of either kind.
Result<void> check_window_events(const ModelConfig& config, std::span<const Event> events,
                                 int max_events);

/// No step of these canonical events holds more than the model takes.
Result<void> check_step_sizes(const ModelConfig& config, std::span<const Event> events);

Error no_session(SessionId id);

/// Steps are numbered below this, so that times in ms and bins stay exact.
inline constexpr std::int64_t kMaxStep = 10'000'000'000'000;
/// Of a session's declaration: its period is at least a microsecond.
inline constexpr double kMaxStepRateHz = 1e6;

}  // namespace cortex
