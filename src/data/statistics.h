#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// Percentiles of a set, linearly interpolated between its sorted values.
struct Spread {
  double p5 = 0;
  double median = 0;
  double p95 = 0;
};

struct SeriesStatistics {
  std::string name;
  double sample_hz = 0;  ///< 1 / median period
  int gaps = 0;          ///< periods longer than 3 times the median
  double start_s = 0;
  double stop_s = 0;
};

/// What describes a recording's population and task, and what the simulator is held against.
struct RecordingStatistics {
  Interval session;       ///< first to last observed moment
  double observed_s = 0;  ///< length of the union of observed intervals
  int gaps = 0;           ///< between observed intervals
  double longest_gap_s = 0;
  Spread rate_hz;  ///< over units, spikes within observed time
  double mean_rate_hz = 0;
  /// Variance over mean of counts in 200 ms windows that tile the trials, over units that fire at
  /// least once in 20 windows; nothing with fewer than 100 windows.
  std::optional<Spread> fano;
  /// Over units: |rate in the last third of observed time - rate in the first| / mean rate, scaled
  /// to thirds 10 minutes apart, over units of 0.5 spikes/s or more; nothing in sessions shorter
  /// than 200 s or with less than 60 s observed.
  std::optional<Spread> drift_per_10min;
  std::optional<Spread> trial_s;  ///< length of trials
  /// Over samples of hand_vel in trials, mm/s whatever the file's unit; nothing where it is absent
  /// or not a velocity in mm/s, cm/s or m/s.
  std::optional<Spread> speed_mm_s;
  std::optional<double> speed_p99_mm_s;
  std::vector<SeriesStatistics> series;
};

RecordingStatistics describe(const Recording& recording);

}  // namespace cortex
