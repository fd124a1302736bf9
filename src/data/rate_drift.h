#pragma once

#include <cortex/result.h>

#include <optional>
#include <string>
#include <vector>

#include "data/recording.h"

/// How far the units of a new day have moved from those that a decoder learned, by their rates
/// alone: no behaviour and no decoding are needed.
///
///     const auto drift = rate_drift(rates_of(monday), tuesday).value_or_throw();
///     if (drift.advised) ...   // adapt before decoding
namespace cortex {

struct UnitRate {
  std::string id;
  double rate_hz = 0;
};
/// Spikes a second of observed time.
std::vector<UnitRate> rates_of(const Recording& recording);

struct UnitDrift {
  std::string id;
  double before_hz = 0;
  double now_hz = 0;
  /// log2((now + 0.5) / (before + 0.5)), rates in spikes/s: a few spikes more of a silent unit are
  /// no doubling.
  double log2_ratio = 0;
  /// (now - before) / (s * sqrt(2 / 20)), s being the standard deviation of the unit's rate over 20
  /// equal parts of today's observed time (at least that of a Poisson process, so that a silent
  /// unit's is not 0); 2, because the mean before is taken to be as uncertain as today's.
  double z = 0;
  /// |log2_ratio| of 1 or more, twice or half, and |z| of 3 or more.
  bool changed = false;
};

struct RateDrift {
  std::vector<UnitDrift> units;    ///< that both have, in the recording's order
  std::vector<std::string> lost;   ///< of before, not in the recording
  std::vector<std::string> fresh;  ///< of the recording, not known before
  double median_abs_log2 = 0;      ///< over `units`
  double median_abs_z = 0;
  double changed_share = 0;  ///< (changed + lost + fresh) / all units of before or now
  bool advised = false;      ///< changed_share is kDriftAdvised or more
};
inline constexpr double kDriftAdvised = 0.2;

/// Units are matched by id, or by SESSION/ID where `before` is named so (models of several
/// sessions). invalid_argument: `before` is empty or all its rates are 0, as in a model that holds
/// none; or the recording has no unit or no observed time.
Result<RateDrift> rate_drift(const std::vector<UnitRate>& before, const Recording& now);

}  // namespace cortex
