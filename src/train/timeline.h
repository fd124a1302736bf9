#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/protocol.h"
#include "data/recording.h"
#include "data/steps.h"

namespace cortex::train {

/// One recording on its own clock. A stream never resets inside it.
struct TimelinePart {
  std::string path;
  std::string session;
  std::vector<std::int64_t> indptr;  ///< [steps + 1] into events
  std::vector<Event> events;
  std::vector<float> target;       ///< [steps, dims], physical units
  std::vector<std::uint8_t> mask;  ///< [steps] 1 where loss or score counts
  std::vector<std::uint8_t> observed;
  std::vector<std::int32_t> trial;  ///< [steps] index of the step's trial, -1 outside
  /// [steps] trial that a scored step counts for, numbered over all recordings; -1 where not scored
  std::vector<std::int32_t> scored_trial;
  std::int64_t steps() const { return static_cast<std::int64_t>(indptr.size()) - 1; }
};

/// Recordings one after the other; none sees another's steps. Their units are the same, or each
/// recording's own.
struct Timeline {
  std::vector<TimelinePart> parts;
  std::vector<std::string> unit_ids;
  std::vector<std::string> unit_sessions;   ///< session of each unit
  std::vector<std::uint8_t> unit_held_out;  ///< 1 where a recording marks the unit so
  std::vector<double> unit_rates_hz;        ///< over observed steps that were not blanked
  std::vector<std::string> output_names;
  std::string output_unit;
  std::size_t dims = 0;
  double bin_ms = 0;
  double step_ms = 0;
  std::string digest;  ///< 16 hex digits over events, targets and masks

  std::int64_t steps() const;
  std::int64_t scored() const;
  /// Mean and standard deviation of the target over scored steps, a dimension each.
  std::vector<float> target_mean() const;
  std::vector<float> target_std() const;
};

/// Whether spikes of trials outside the wanted splits stay.
enum class OtherTrials { keep, blank };

/// Steps with trials of `splits` scored. With `blank`, every step that overlaps another trial loses
/// its spikes, and every step that is not scored its target, so that nothing of the validation
/// trials is learned.
Result<TimelinePart> make_part(const Recording& recording, const SteppedRecording& stepped,
                               const std::string& splits, OtherTrials others,
                               const StepOptions& options, const ProtocolOptions& protocol);

/// Drops the events that `keep` does not hold for.
void keep_events(TimelinePart& part, const std::function<bool(const Event&)>& keep);

/// How units of several recordings become one table.
enum class UnitsBy {
  id,       ///< a unit of the same id is the same unit; all recordings hold the same
  session,  ///< each session has units of its own, named `session_unit_id()`
};

/// Every trial with scored steps as a recording of its own, so that nothing before it is known: the
/// protocol with a reset at each trial.
Timeline cut_at_trials(const Timeline& timeline);

/// invalid_argument when parts differ in units, outputs or steps. `options.unit_ids`, where given,
/// is the table that the recordings' units must be in, unless `options.allow_missing_units`: then
/// those that are not in it are not heard, and rows that no unit has are silent.
Result<Timeline> make_timeline(const std::vector<Recording>& recordings, const StepOptions& options,
                               const std::string& splits, OtherTrials others,
                               const ProtocolOptions& protocol = {},
                               UnitsBy units_by = UnitsBy::id);

}  // namespace cortex::train
