#pragma once

#include "train/trainer.h"

namespace cortex::train {

/// Ridge regression on binned counts with lags: the floor that a decoder has to clear, under the
/// same protocol (one clock, gaps are empty steps) on the same steps and targets.
struct RidgeOptions {
  DataOptions data;
  std::vector<std::string> eval_nwb;  ///< scored on their validation trials; empty: data.nwb
  int lags = 15;
  /// Counts are smoothed over steps by a Gaussian of this standard deviation, cut at three of them:
  /// the benchmark's baseline for `nlb` has 50. It looks ahead, so nothing can be served; 0: not.
  double smooth_ms = 0;
  std::string out;  ///< servable model to write (lags up to 256); empty: none
  int threads = 0;
};

struct RidgeReport {
  double r2 = 0;
  std::vector<double> r2_per_dim;
  std::int64_t steps = 0;
  /// Chosen on every fifth training trial, then refitted on all: of 0.1 to 1e5 in steps of half a
  /// power of ten. Under `nlb` as the benchmark does: of 1e-4 to 1, by the mean R² over five inner
  /// folds of the training trials.
  double alpha = 0;
  double inner_r2 = 0;          ///< by which it was chosen
  std::vector<double> weights;  ///< [lags * units + 1, dims], the intercept last
};

Result<RidgeReport> ridge(const RidgeOptions& options);
Result<RidgeReport> ridge(const RidgeOptions& options, const std::vector<Recording>& training,
                          const std::vector<Recording>& scoring);

}  // namespace cortex::train
