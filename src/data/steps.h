#pragma once

#include <cortex/events.h>
#include <cortex/result.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// How a recording is cut into steps.
struct StepOptions {
  double bin_ms = 20;             ///< width of an event's bin
  double step_ms = 20;            ///< a whole multiple of bin_ms
  double target_offset_ms = -10;  ///< target time minus the end of its step
  std::string target;             ///< series; empty: "hand_vel". A prepared recording has its own
  std::vector<std::string> unit_ids;  ///< order of units; empty: the file's own order
  bool allow_missing_units = false;   ///< a wanted unit the file lacks is silent, not an error
};

/// A whole recording as one session on one clock: every step from the first observed moment to the
/// last, gaps included as empty steps. Trainer, evaluation and replay share it, so they score the
/// same steps against the same targets.
struct SteppedRecording {
  double origin_s = 0;  ///< start of step 0, session time
  double bin_ms = 0;
  double step_ms = 0;
  std::vector<std::string> unit_ids;  ///< what Event::unit indexes
  std::vector<std::int64_t> indptr;   ///< [steps + 1] into events
  std::vector<Event> events;          ///< by step, sorted by (bin, unit), duplicates merged
  std::size_t dims = 0;
  std::vector<std::string> output_names;
  std::string output_unit;
  std::vector<float> target;           ///< [steps, dims]; NaN where there is none
  std::vector<std::int32_t> trial;     ///< [steps] index into the recording's trials, -1 outside
  std::vector<std::uint8_t> observed;  ///< [steps] 1 where spikes were being recorded throughout

  std::int64_t steps() const { return static_cast<std::int64_t>(indptr.size()) - 1; }
  std::span<const Event> step_events(std::int64_t step) const {
    return {events.data() + indptr[step], events.data() + indptr[step + 1]};
  }
};

/// Cuts `recording`. The origin is the start of the earliest observed interval (or trial, where
/// there are none), rounded down to a whole step; spikes outside [origin, end) are dropped.
/// A step is observed if it lies in the union of the units' observed intervals (all, if a file has
/// none); it belongs to a trial if its whole span lies within it. The target is the behaviour
/// linearly interpolated at the target time between two samples no further apart than 3 times the
/// series' median period or one step, whichever is larger; NaN elsewhere. A spike or a sample at
/// the edge of a bin belongs to the later bin, though its decimal time may be an ulp short of it.
///
/// A file without any behaviour has `dims` 0 unless a target was asked for by name. Errors:
/// invalid_argument (an option out of range), not_found (a unit or the target series is missing:
/// the message lists what is), too_large (more than 50 million steps).
Result<SteppedRecording> step_recording(const Recording& recording, const StepOptions& options);

/// 1 for steps that count: observed, inside a trial whose split is one of `splits` (comma
/// separated; "all" takes every trial), target finite in every dimension. [steps]. A split that no
/// trial is in, or a recording without a target, is invalid_argument. `with_target` false: spikes
/// are what counts, and neither target nor recording needs one.
Result<std::vector<std::uint8_t>> scored_steps(const SteppedRecording& stepped,
                                               const Recording& recording,
                                               const std::string& splits, bool with_target = true);

/// Coefficient of determination over rows where mask is 1; NaN where no row is, or where the truth
/// does not vary.
struct R2 {
  double mean = 0;              ///< average over dimensions
  std::vector<double> per_dim;  ///< 1 - SSE / SST about the mean of the masked rows
  std::int64_t rows = 0;
};
R2 r2_score(std::span<const float> truth, std::span<const float> decoded,
            std::span<const std::uint8_t> mask, std::size_t dims);

}  // namespace cortex
