#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <string>
#include <vector>

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
  std::int64_t steps() const { return static_cast<std::int64_t>(indptr.size()) - 1; }
};

/// Recordings with the same units, one after the other; none sees another's steps.
struct Timeline {
  std::vector<TimelinePart> parts;
  std::vector<std::string> unit_ids;
  std::vector<double> unit_rates_hz;  ///< over observed steps that were not blanked
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
/// its spikes, so that nothing of the validation trials is learned.
Result<TimelinePart> make_part(const Recording& recording, const SteppedRecording& stepped,
                               const std::string& splits, OtherTrials others);

/// Every trial with scored steps as a recording of its own, so that nothing before it is known: the
/// protocol with a reset at each trial.
Timeline cut_at_trials(const Timeline& timeline);

/// invalid_argument when parts differ in units, outputs or steps.
Result<Timeline> make_timeline(const std::vector<Recording>& recordings, const StepOptions& options,
                               const std::string& splits, OtherTrials others);

}  // namespace cortex::train
