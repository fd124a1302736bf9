#pragma once

#include <cortex/engine.h>

#include <vector>

#include "model/config.h"

namespace cortex {

/// Declared unit -> row of the model's table, matched by id. invalid_argument lists the ids that do
/// not match.
Result<std::vector<std::int32_t>> match_units(const ModelConfig& config,
                                              const SessionOptions& options);

/// Checks a step's events and copies them, with model rows for units, into `into` (cleared first,
/// not grown past its capacity); returns how many were dropped for lying outside the step. On an
/// error `into` is empty.
Result<std::int64_t> take_step_events(const ModelConfig& config, const SessionOptions& options,
                                      const std::vector<std::int32_t>& unit_rows, std::int64_t step,
                                      std::span<const Event> events, std::vector<Event>& into);

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
