#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "data/steps.h"

/// R² from sums that add up over trials, so that trials can be drawn again and again.
///
///     const auto a = score_trials(truth, decoded_a, mask, trial, 2);
///     const auto b = score_trials(truth, decoded_b, mask, trial, 2);
///     const PairedDifference d = paired_bootstrap(a, b, 2000, 1);   // a better where d.low > 0
namespace cortex {

struct TrialScore {
  std::int32_t trial = 0;
  std::int64_t steps = 0;
  std::vector<double> sum;      ///< [dims] of the truth
  std::vector<double> squares;  ///< [dims] of the truth squared
  std::vector<double> error;    ///< [dims] of the squared errors
};

/// One a trial that has a step where mask is 1, by number. `trial` [rows].
std::vector<TrialScore> score_trials(std::span<const float> truth, std::span<const float> decoded,
                                     std::span<const std::uint8_t> mask,
                                     std::span<const std::int32_t> trial, std::size_t dims);

/// R² over all steps of all trials, the mean being that of all of them.
R2 pooled_r2(std::span<const TrialScore> trials);

struct ConfidenceInterval {
  double low = 0;
  double high = 0;
};

/// Percentile interval of the mean R² over trials drawn with replacement.
ConfidenceInterval bootstrap_r2(std::span<const TrialScore> trials, int resamples,
                                std::uint64_t seed, double level = 0.95);

struct PairedDifference {
  double difference = 0;  ///< R² of the first minus that of the second
  double low = 0;         ///< 95% interval
  double high = 0;
  double p = 1;  ///< two-sided: twice the smaller share of draws on one side of 0, at most 1
};

/// Both are scored on the same draws of trials. The two lists must hold the same trials with the
/// same truth: std::invalid_argument otherwise.
PairedDifference paired_bootstrap(std::span<const TrialScore> first,
                                  std::span<const TrialScore> second, int resamples,
                                  std::uint64_t seed);

}  // namespace cortex
